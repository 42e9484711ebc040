"""Which kernels an engine process opens a job with: fast ones for class mode, exact ones else."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np

from flopmarket.engine.runtime.cache import default_directory
from flopmarket.jobs.host import EngineProcess
from flopmarket.jobs.prepared import PreparedJob, run_local
from flopmarket.jobs.spec import JobSpec, Mode
from flopmarket.trust.encoding import decode, encode
from tests.engine_processes import ContractingEngine, SplittingEngine
from tests.unit.jobs.jobs import small_job
from tests.unit.jobs.test_host import lay_out, segment

CLASS = b"c" * 32


def job() -> PreparedJob:
    """Weights of many digits, so that a product rounded before it is added shows."""
    made = small_job()
    return replace(made, state={"w": np.array([0.1, 1 / 3, 2 / 7], np.float32)})


def state_root(kind: type[EngineProcess], folder: Path, mode: Mode) -> bytes:
    """The end of a segment of the job in a mode, by a process of a kind."""
    folder.mkdir()
    plain = decode(JobSpec, lay_out(job(), folder))
    class_digest = CLASS if mode is Mode.CLASS else plain.class_digest
    spec = encode(replace(plain, mode=mode, class_digest=class_digest))

    async def run() -> bytes:
        engine = await kind.start("PoCL:0", cache_dir=default_directory())
        try:
            await engine.open(folder, spec)
            await engine.load_state(folder / "state.safetensors", 0)
            return (await segment(engine, folder, 0, 4))[1].state_root_after
        finally:
            await engine.stop()

    return asyncio.run(run())


def test_bits_of_class_mode_are_those_of_the_class(tmp_path: Path) -> None:
    first, again = (
        state_root(ContractingEngine, tmp_path / name, Mode.CLASS) for name in ("one", "two")
    )
    assert first == again
    assert state_root(SplittingEngine, tmp_path / "other", Mode.CLASS) != first


def test_other_modes_run_the_exact_kernels(tmp_path: Path) -> None:
    law = run_local(job(), "reference", steps=4).state_root
    for mode in (Mode.EXACT, Mode.TOLERANCE):
        assert state_root(EngineProcess, tmp_path / mode, mode) == law
