"""Invitations and certificates over real gRPC: who joins, who gets in, who does not any more."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from flopmarket.client.client import Client
from flopmarket.client.joining import fetch_authority, join, read_joined
from flopmarket.errors import Conflict, FlopmarketError, Unauthenticated
from flopmarket.trust.joining import read_token
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.trust.tls import CertificateAuthority, ClientRequest, TlsIdentity, client_key_id
from flopmarket.v1 import worker_pb2, worker_pb2_grpc
from flopmarket_coordinator.certificates import Certificates
from flopmarket_coordinator.config import ListenAddress
from flopmarket_worker.certificate import load_leaf, save_leaf
from flopmarket_worker.link import CoordinatorLink, Credentials
from flopmarket_worker.remote import error_of
from flopmarket_worker.signing import random_nonce, wall_clock_us
from tests.integration.coordinator.market import Market, running_market

LOOPBACK = ListenAddress("127.0.0.1", 0)


class Owner:
    """An account with its key on one machine, and folders of other machines."""

    def __init__(self, market: Market, folder: Path, key: KeyPair) -> None:
        self.market, self.folder, self.key = market, folder, key
        self.authority = market.coordinator.directory.authority_file.read_bytes()
        self.address = market.coordinator.address

    def client(self, key: KeyPair | None = None, account_id: str = "") -> Client:
        return Client(self.address, key or self.key, self.authority, account_id=account_id)

    async def do(self, run: Callable[[Client], Any]) -> Any:
        """A call of the synchronous client, beside the coordinator's own loop."""

        def call() -> Any:
            with self.client() as client:
                return run(client)

        return await asyncio.to_thread(call)

    async def joined(self, name: str) -> Path:
        """The folder of a machine that has joined."""
        invited = await self.do(lambda client: client.invite(name, lifetime_seconds=60))
        folder = self.folder / name
        await asyncio.to_thread(join, read_token(invited.token), folder, "")
        return folder

    def link(self, folder: Path, **changes: Any) -> CoordinatorLink:
        """What `flop worker up` makes of that folder."""
        found = read_joined(folder)
        assert found is not None
        return CoordinatorLink(
            found.address,
            Credentials(KeyPair.load(folder / "device.pem"), None, found.account_id, "w"),
            now_us=wall_clock_us,
            nonce=random_nonce,
            ca_pem=Path(found.ca_file).read_bytes(),
            **{"tls_folder": folder, "coordinator_key": found.coordinator_key, **changes},
        )


def with_owner(folder: Path, scenario: Callable[[Owner], Awaitable[None]], **config: Any) -> None:
    async def run() -> None:
        options = {"tls_hosts": ("127.0.0.1", "localhost"), "worker_listen": LOOPBACK, **config}
        async with running_market(folder, audit=False, **options) as market:
            owner = Owner(market, folder, KeyPair.generate())
            await owner.do(lambda client: client.register("alice"))
            await scenario(owner)

    asyncio.run(run())


async def greeted(link: CoordinatorLink) -> Any:
    """Say hello as a worker; the open call, or the error of ours that ended it."""
    metadata = await link.credentials()
    call = link.worker.Session(metadata=metadata, timeout=20)  # type: ignore[call-arg]
    try:
        await call.write(worker_pb2.SessionRequest(hello=worker_pb2.Hello(agent_version="1")))
        answer = await call.read()
        assert answer.HasField("welcome")
    except aio.AioRpcError as failure:
        raise error_of(failure) from failure
    except asyncio.InvalidStateError:
        raise error_of(
            aio.AioRpcError(
                await call.code(),
                await call.initial_metadata(),
                await call.trailing_metadata(),
                await call.details(),
            )
        ) from None
    return call


async def ended(call: Any) -> FlopmarketError:
    """The error that a stream ends with."""
    try:
        async with asyncio.timeout(10):
            while await call.read() is not aio.EOF:  # type: ignore[attr-defined]
                pass
    except aio.AioRpcError as failure:
        return error_of(failure)
    raise AssertionError("the stream ended in good order")


def test_a_machine_joins_with_one_line_and_works_with_a_certificate(tmp_path: Path) -> None:
    async def scenario(owner: Owner) -> None:
        invited = await owner.do(lambda client: client.invite("cellar", lifetime_seconds=60))
        folder = tmp_path / "machine"
        token = read_token(invited.token)
        found = await asyncio.to_thread(join, token, folder, "")
        assert await asyncio.to_thread(join, token, folder, "") == found  # again: no change
        assert Path(found.ca_file).read_bytes() == owner.authority
        with pytest.raises(Conflict) as used:
            await asyncio.to_thread(join, token, tmp_path / "second", "")
        assert used.value.code == "INVITATION_USED"
        link = owner.link(folder)
        call = await greeted(link)
        device = KeyPair.load(folder / "device.pem")
        leaf = load_leaf(folder, device.key_id, owner.authority, wall_clock_us())
        assert leaf is not None and client_key_id(leaf.identity.certificate_pem) == device.key_id
        call.cancel()
        await link.close()
        again = owner.link(folder)  # a restart takes the certificate from disk
        call = await greeted(again)
        kept = load_leaf(folder, device.key_id, owner.authority, wall_clock_us())
        assert kept == leaf
        call.cancel()
        await again.close()
        listed = await owner.do(lambda client: client.invitations())
        assert [(item.state, item.device_key_id) for item in listed] == [("used", device.key_id)]

    with_owner(tmp_path, scenario)


def test_a_token_for_another_authority_sends_nothing(tmp_path: Path) -> None:
    async def scenario(owner: Owner) -> None:
        with pytest.raises(FlopmarketError) as caught:
            await asyncio.to_thread(fetch_authority, owner.address, "0" * 64)
        assert caught.value.code == "AUTHORITY_UNKNOWN"
        with pytest.raises(FlopmarketError) as away:
            await asyncio.to_thread(fetch_authority, "127.0.0.1:9", "0" * 64)
        assert away.value.code == "COORDINATOR_UNAVAILABLE"

    with_owner(tmp_path, scenario)


def test_without_the_right_certificate_nobody_works(tmp_path: Path) -> None:
    async def scenario(owner: Owner) -> None:
        coordinator = owner.market.coordinator
        mine, theirs = await owner.joined("mine"), await owner.joined("theirs")
        link, other = owner.link(mine), owner.link(theirs)
        metadata = await link.credentials()
        theirs_metadata = await other.credentials()
        root = owner.authority

        async def refusal(target: str, credentials: Any, headers: Any) -> str:
            async with aio.secure_channel(target, credentials) as channel:
                call = worker_pb2_grpc.WorkerServiceStub(channel).Session(
                    metadata=headers, timeout=5
                )
                failure = await ended(call)
                return failure.code

        # On the open port a session is not enough; on the workers' port nobody comes without one.
        plain = grpc.ssl_channel_credentials(root)
        assert await refusal(owner.address, plain, metadata) == "CERTIFICATE_MISSING"
        worker_port = coordinator.worker_address
        assert await refusal(worker_port, plain, metadata) == "COORDINATOR_UNAVAILABLE"
        # A certificate of one key with a session of another.
        leaf = load_leaf(mine, link.device_key.key_id, root, wall_clock_us())
        assert leaf is not None

        def client(identity: TlsIdentity) -> Any:
            return grpc.ssl_channel_credentials(
                root, identity.private_key_pem, identity.certificate_pem
            )

        code = await refusal(worker_port, client(leaf.identity), theirs_metadata)
        assert code == "CERTIFICATE_OTHER_KEY"
        # Certificates that another authority made, or that ended.
        now_us, wanted = wall_clock_us(), ClientRequest.create()
        stranger = CertificateAuthority.create("stranger", now_us=now_us)
        own = coordinator.directory.authority
        for authority, at_us in ((stranger, now_us), (own, now_us - 2 * 86_400_000_000)):
            pem = authority.issue_client(
                wanted.request_pem,
                key_id=link.device_key.key_id,
                now_us=at_us,
                lifetime_seconds=3_600,
            )
            identity = wanted.with_certificate(pem)
            assert await refusal(worker_port, client(identity), metadata) == (
                "COORDINATOR_UNAVAILABLE"
            )
        # The server's own leaf is no client's.
        served = own.issue_server(("127.0.0.1",), now_us=now_us)
        assert await refusal(worker_port, client(served), metadata) != ""
        await link.close()
        await other.close()

    with_owner(tmp_path, scenario)


def test_a_revoked_device_is_out_at_once_while_its_certificate_lives(tmp_path: Path) -> None:
    async def scenario(owner: Owner) -> None:
        folder = await owner.joined("machine")
        link = owner.link(folder)
        call = await greeted(link)
        key_id = link.device_key.key_id
        assert await owner.do(lambda client: client.revoke_key(key_id, "sold")) == (key_id,)
        failure = await ended(call)
        assert (type(failure), failure.code) == (Unauthenticated, "KEY_REVOKED")
        with pytest.raises(FlopmarketError):  # its token is worth nothing, the leaf is still good
            await greeted(link)
        fresh = owner.link(folder)
        with pytest.raises(FlopmarketError):
            await fresh.credentials()
        await link.close()
        await fresh.close()

    with_owner(tmp_path, scenario)


def test_sessions_that_their_owner_ends_are_opened_again(tmp_path: Path) -> None:
    async def scenario(owner: Owner) -> None:
        folder = await owner.joined("machine")
        link = owner.link(folder)
        call = await greeted(link)
        found = await owner.do(lambda client: client.sessions())
        device = next(item for item in found if item.role == "device")
        await owner.do(lambda client: client.end_sessions(device.session_id))
        assert (await ended(call)).code == "SESSION_ENDED"
        link.forget_session()
        (await greeted(link)).cancel()
        assert set(await owner.do(lambda client: client.end_sessions())) >= {owner.key.key_id}
        await link.close()

    with_owner(tmp_path, scenario)


def test_a_certificate_is_renewed_without_ending_the_stream(tmp_path: Path) -> None:
    async def scenario(owner: Owner) -> None:
        folder = await owner.joined("machine")
        now = {"us": 0}
        link = owner.link(folder)
        link._now_us = lambda: wall_clock_us() + now["us"]
        call = await greeted(link)
        first = (folder / "tls.pem").read_bytes()
        now["us"] = 9 * 3_600_000_000  # two thirds of a certificate's twelve hours are over
        with pytest.raises(FlopmarketError):
            await link.credentials()  # our clock alone went on: its signatures are too new
        now["us"] = 0
        link._leaf = None
        (folder / "tls.pem").unlink()
        await link.credentials()
        assert (folder / "tls.pem").read_bytes() != first
        await call.write(worker_pb2.SessionRequest(heartbeat=worker_pb2.Heartbeat()))
        second = await greeted(link)  # the same key again: the older stream makes room
        assert (await ended(call)).code == "SESSION_SUPERSEDED"
        second.cancel()
        await link.close()

    with_owner(tmp_path, scenario)


def test_a_damaged_or_foreign_certificate_on_disk_is_replaced(tmp_path: Path) -> None:
    now_us = wall_clock_us()
    ours = CertificateAuthority.create("ours", now_us=now_us)
    other = CertificateAuthority.create("other", now_us=now_us)
    key, root = KeyPair.generate(), ours.identity.certificate_pem

    def leaf(authority: CertificateAuthority, key_id: str, at_us: int) -> TlsIdentity:
        wanted = ClientRequest.create()
        pem = authority.issue_client(
            wanted.request_pem, key_id=key_id, now_us=at_us, lifetime_seconds=3_600
        )
        return wanted.with_certificate(pem)

    assert load_leaf(tmp_path, key.key_id, root, now_us) is None
    save_leaf(tmp_path, leaf(ours, key.key_id, now_us))
    assert load_leaf(tmp_path, key.key_id, root, now_us) is not None
    assert load_leaf(tmp_path, key.key_id, root, now_us + 3_600_000_000) is None
    for wrong in (
        leaf(other, key.key_id, now_us),
        leaf(ours, "ab" * 32, now_us),
        leaf(ours, key.key_id, now_us - 3_600_000_000),
    ):
        save_leaf(tmp_path, wrong)
        assert load_leaf(tmp_path, key.key_id, root, now_us) is None
    (tmp_path / "tls.pem").write_bytes(b"not a certificate")
    assert load_leaf(tmp_path, key.key_id, root, now_us) is None


def test_the_server_renews_its_certificate_while_it_serves(tmp_path: Path) -> None:
    async def scenario() -> None:
        now_us = wall_clock_us()
        clock = {"us": now_us}
        authority = CertificateAuthority.create("ours", now_us=now_us)
        certificates = Certificates(authority, ("127.0.0.1",), lambda: clock["us"])
        server = aio.server()
        port = server.add_secure_port(
            "127.0.0.1:0", certificates.server_credentials(certified=False)
        )
        await server.start()

        def shown() -> str:
            return ssl.get_server_certificate(("127.0.0.1", port), timeout=5)

        first = await asyncio.to_thread(shown)
        assert await asyncio.to_thread(shown) == first
        clock["us"] += 300 * 86_400_000_000
        assert await asyncio.to_thread(shown) != first
        await server.stop(0)

    asyncio.run(scenario())


def test_a_rotated_owner_key_goes_on_in_its_file(tmp_path: Path) -> None:
    from flopmarket.client.rotating import rotate_key_file

    async def scenario(owner: Owner) -> None:
        path = tmp_path / "keys" / "me.pem"
        owner.key.save(path)
        account = owner.key.key_id

        def rotate() -> Any:
            with Client(owner.address, None, owner.authority) as client:
                return rotate_key_file(client, path)

        done = await asyncio.to_thread(rotate)
        assert (done.role, done.old_key_id) == (KeyRole.OWNER, account)
        again = await asyncio.to_thread(rotate)  # and once more
        assert again.old_key_id == done.key_id

        def who() -> Any:
            with Client(owner.address, path, owner.authority) as client:
                return client.account().account_id, client.ownership(account).links

        assert await asyncio.to_thread(who) == (account, 2)
        assert len(list(path.parent.glob("me.*.pem"))) == 2

        def old() -> Any:
            with Client(owner.address, again.kept, owner.authority, account_id=account) as client:
                return client.account()

        with pytest.raises(FlopmarketError):
            await asyncio.to_thread(old)

    with_owner(tmp_path, scenario)


def test_a_recovery_over_the_wire_takes_effect_by_itself(tmp_path: Path) -> None:
    from flopmarket_coordinator.parameters import Parameters

    async def scenario(owner: Owner) -> None:
        words, new, account = KeyPair.generate(), KeyPair.generate(), owner.key.key_id
        await owner.do(lambda client: client.set_recovery_key(words))
        with pytest.raises(Conflict):
            await owner.do(lambda client: client.set_recovery_key(KeyPair.generate()))

        def recover() -> Any:
            with Client(owner.address, None, owner.authority) as client:
                return client.recover(account, words, new)

        pending = await asyncio.to_thread(recover)
        assert pending is not None and (await owner.do(lambda c: c.keys())).recovery == pending
        began = time.monotonic()
        while await asyncio.to_thread(recover) is not None:
            assert time.monotonic() - began < 20
            await asyncio.sleep(0.1)

        def keys() -> Any:
            with owner.client(new, account) as client:
                client._session._identity = type(client._session.identity)(
                    new, account, KeyRole.OWNER
                )
                return client.keys()

        assert [item.state for item in (await asyncio.to_thread(keys)).keys] == [
            "rotated",
            "active",
        ]

    parameters = Parameters(recovery_wait_us=1_500_000)
    with_owner(tmp_path, scenario, parameters=parameters, recovery_interval_seconds=0.1)
