"""``flop benchmark``, and the challenge behind its file: two engine processes, real bits."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from flopmarket.errors import FlopmarketError
from flopmarket.jobs.host import EngineProcess, JobRefused
from flopmarket.jobs.proving import proving_on, recompute_command
from flopmarket.trust.benchmark import BenchmarkOpening, StageClaim
from flopmarket.trust.benchmark_file import benchmark_file, read_benchmark_file
from flopmarket.trust.benchmark_shape import ELEMENT_GRAIN, READS_PER_LEAF, MemoryShape
from flopmarket.trust.benchmark_verifier import BenchmarkVerifier
from flopmarket.trust.encoding import decode, encode
from flopmarket.trust.envelope import payload_type_of, sign_payload
from flopmarket.trust.keys import KeyPair
from tests.unit.bench.test_challenge import NONCE, SEED, plan_of
from tests.unit.cli.conftest import Flop

COORDINATOR = KeyPair.from_seed(b"c" * 32)
MEMORY = MemoryShape(stages=2, elements=ELEMENT_GRAIN, passes=2, reads=READS_PER_LEAF)


async def challenged() -> tuple[BenchmarkVerifier, bytes]:
    """One whole challenge of the reference; the verifier at its end and the opening."""
    plan = plan_of(MEMORY)
    verifier = BenchmarkVerifier(plan, nonce=NONCE, sampling_seed=SEED, offered_at_us=0)
    device = await EngineProcess.start("reference")
    judge = await EngineProcess.start("reference")
    try:
        await device.prove("open", encode(plan))
        start = verifier.ready(1)
        assert start is not None
        await device.prove("start", encode(start))
        request = None
        for stage in range(plan.shapes.stage_count):
            claim = decode(StageClaim, await device.prove("stage"))
            request = verifier.claim(claim, 2 + stage)
        assert request is not None
        with pytest.raises(FlopmarketError, match="every stage is done"):
            await device.prove("stage")
        opening = await device.prove("answer", encode(request))
        await device.prove("close")
        tasks = verifier.open(decode(BenchmarkOpening, opening), 99)
        command = recompute_command(
            plan, start, verifier.roots, SEED, decode(BenchmarkOpening, opening)
        )
        values = await judge.recompute(command)
        assert len(values) == len(tasks)
        assert verifier.conclude(values).accepted
    finally:
        await asyncio.gather(device.stop(), judge.stop())
    return verifier, opening


def test_a_challenge_between_two_engine_processes_and_its_file(tmp_path: Path, flop: Flop) -> None:
    verifier, opening = asyncio.run(challenged())
    report = verifier.report()
    signed = sign_payload(payload_type_of(type(report)), encode(report), COORDINATOR).to_json()
    data = benchmark_file(signed, opening, COORDINATOR.public.raw)
    path = tmp_path / "card.json"
    path.write_bytes(data)
    shown = flop("benchmark", "show", str(path), "--json")
    record = json.loads(shown.stdout)
    assert record["reason"] == "BENCHMARK_ACCEPTED" and record["trusted"] is False
    checked = flop("benchmark", "verify", str(path), "--key", COORDINATOR.key_id, "--json")
    record = json.loads(checked.stdout)
    assert record["valid"] and record["trusted"] and record["recomputed"] == 15
    other = flop("benchmark", "show", str(path), "--key", "0" * 64)
    assert other.exit_code == 1 and "signed by" in other.stderr
    content = json.loads(data)
    content["opening"] = content["opening"][:-2] + "00"
    path.write_text(json.dumps(content))
    assert flop("benchmark", "verify", str(path)).exit_code != 0
    with pytest.raises(FlopmarketError):
        read_benchmark_file(data, KeyPair.from_seed(b"x" * 32).public)
    for garbage in (b"", b"[]", b"{}", b'{"type": 1}', b"\xff" * 10, b"[" * 100_000):
        with pytest.raises(FlopmarketError):
            read_benchmark_file(garbage, None)


def test_steps_out_of_turn_are_refused() -> None:
    proving = proving_on("reference", None)
    for step in ("start", "stage", "answer", "no such step"):
        with pytest.raises(FlopmarketError):
            proving.step(step, b"")
    proving.close()


def test_an_engine_refuses_what_is_no_plan() -> None:
    async def run() -> None:
        device = await EngineProcess.start("reference")
        try:
            with pytest.raises(JobRefused):
                await device.prove("open", b"garbage")
            await device.prove("close")  # it is still there
        finally:
            await device.stop()

    asyncio.run(run())
