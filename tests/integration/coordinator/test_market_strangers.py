"""The market for people without our code: by reflection alone, and from another language."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.integration.coordinator.live_world import CALM, LiveWorld
from tests.integration.coordinator.market import Market, with_market
from tests.tools.generate_protobuf import PROTO

SERVICE = "flopmarket.v1.MarketService"
CLASS = "elementwise-f32"
NODE_CLIENT = Path(__file__).with_name("node_client.js")
NODE_PACKAGES = ("@grpc/grpc-js@1.14.7", "@grpc/proto-loader@0.8.1")
INSTALL_SECONDS, RUN_SECONDS = 120, 60


def traded(folder: Path, look: Callable[[str], Awaitable[None]]) -> None:
    """``look`` at the address of a coordinator with three trades, one offer and one open order."""

    def trade(world: LiveWorld) -> None:
        world.sell(3)
        world.buyer("another").submit("resting", max_price_nano=10)
        world.match()

    async def scenario(market: Market) -> None:
        await asyncio.to_thread(trade, LiveWorld(market))
        await look(market.coordinator.address)

    with_market(folder, scenario, **CALM)


class Reflected:
    """A client that knows an address, and learns everything else from the server."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        database = ProtoReflectionDescriptorDatabase(self._channel)
        pool = descriptor_pool.DescriptorPool(database)
        self._service = pool.FindServiceByName(SERVICE)

    def call(self, name: str, **fields: Any) -> dict[str, Any]:
        """The answer, or the first message of a stream, as JSON."""
        method = self._service.methods_by_name[name]
        request = message_factory.GetMessageClass(method.input_type)(**fields)
        answer = message_factory.GetMessageClass(method.output_type)
        make = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
        stub = make(
            f"/{SERVICE}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        if not method.server_streaming:
            return json_format.MessageToDict(stub(request, timeout=10))
        stream = stub(request, timeout=10)
        try:
            return json_format.MessageToDict(next(stream))
        finally:
            stream.cancel()

    def close(self) -> None:
        self._channel.close()


def check_answers(answers: dict[str, Any]) -> None:
    """The same market, whoever asks. 64-bit integers are decimal texts in JSON."""
    (spot,) = (price for price in answers["spot"]["prices"] if price["workClass"] == CLASS)
    assert spot["offers"] == 1 and spot["orders"] == 1 and int(spot["perPflop"]["nano"]) > 0
    last = spot["lastPerPflop"]["nano"]
    assert int(answers["spot"]["asOfUs"]) > 0 and answers["spot"]["tradeSequence"] == "3"
    (offer,) = answers["offers"]["offers"]
    assert offer["deviceName"] == "card of worker of job" and answers["offers"]["matching"] == 1
    (ask,), (bid,) = answers["book"]["asks"], answers["book"]["bids"]
    assert ask["perPflop"] == spot["perPflop"] and bid["perPflop"] == spot["bidPerPflop"]
    (candle,) = answers["history"]["candles"]
    assert candle["trades"] == 3 and candle["close"]["nano"] == last
    newest = answers["trades"]["snapshot"]["trades"]
    assert [trade["number"] for trade in newest] == ["1", "2", "3"]
    assert newest[-1]["perPflop"]["nano"] == last
    assert int(newest[-1]["flops"]) > 0


def test_reflection_is_enough(tmp_path: Path) -> None:
    def look(address: str) -> dict[str, Any]:
        client = Reflected(address)
        try:
            return {
                "spot": client.call("GetSpot"),
                "offers": client.call(
                    "ListOffers",
                    order_by="-memory",
                    filters=[{"field": "state", "op": "=", "value": "idle"}],
                ),
                "book": client.call("GetBook", work_class=CLASS),
                "history": client.call("GetHistory", work_class=CLASS, resolution_seconds=86_400),
                "trades": client.call("StreamTrades", work_class=CLASS),
            }
        finally:
            client.close()

    async def ask(address: str) -> None:
        check_answers(await asyncio.to_thread(look, address))

    traded(tmp_path, ask)


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client and its packages; skips where node or npm cannot make one."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node or npm is missing: no client in another language was tried")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"private": true}')
    shutil.copy(NODE_CLIENT, folder)
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *NODE_PACKAGES]
    try:
        subprocess.run(
            command, cwd=folder, check=True, capture_output=True, timeout=INSTALL_SECONDS
        )
    except (subprocess.SubprocessError, OSError):
        pytest.skip("npm could not install @grpc/grpc-js: no client in another language was tried")
    return folder


def test_a_client_in_another_language(tmp_path: Path, node_folder: Path) -> None:
    """Node's own gRPC, from the .proto files."""

    def look(address: str) -> dict[str, Any]:
        done = subprocess.run(
            ["node", NODE_CLIENT.name, address, str(PROTO), CLASS],
            cwd=node_folder,
            check=False,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
        )
        assert done.returncode == 0, done.stderr
        answers: dict[str, Any] = json.loads(done.stdout)
        return answers

    async def ask(address: str) -> None:
        answers = await asyncio.to_thread(look, address)
        check_answers(answers)
        resumed = answers["resumed"]
        assert resumed["sequence"] == "3" and "alive" in resumed
        assert answers["refused"] == {"code": 3, "reason": "WORK_CLASS_UNKNOWN"}

    traded(tmp_path, ask)
