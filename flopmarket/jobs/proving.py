"""Both ends of a benchmark challenge inside an engine process, where the device is.

:class:`Proving` computes the stages of one challenge and keeps their leaves until the opening:
thousands of leaves never leave the process, only a root a stage and the opened ones do.
:func:`recomputed` is the verifier's part. Documents come and go as canonical bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flopmarket.bench.challenge import Opener, Recomputer, StageRunner
from flopmarket.errors import Conflict, InvalidInput
from flopmarket.trust.benchmark import (
    BenchmarkOpening,
    BenchmarkPlan,
    BenchmarkStart,
    OpeningRequest,
)
from flopmarket.trust.benchmark_prover import BenchmarkProver
from flopmarket.trust.benchmark_verifier import Verdict, check_opening
from flopmarket.trust.encoding import decode, encode

if TYPE_CHECKING:
    from flopmarket.engine.runtime.open import Opener as OpenDevice


class Proving:
    """One challenge at a time on the device behind ``opener``."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._runner: StageRunner | None = None
        self._prover: BenchmarkProver | None = None

    def step(self, name: str, document: bytes) -> bytes:
        """One step of the device's side; the claim or opening that it comes to, else nothing.

        ``open`` takes a plan and builds every kernel, ``start`` the nonce, ``stage`` computes the
        next stage, ``answer`` takes the request for the opening, ``close`` frees everything.
        Conflict BENCHMARK_ORDER out of turn, InvalidInput for documents that do not belong here.
        """
        match name:
            case "open":
                self.close()
                plan = decode(BenchmarkPlan, document)
                self._runner = StageRunner(plan.shapes, self._opener)
                self._prover = BenchmarkProver(plan)
                self._runner.prepare()
            case "start":
                self._begun()[1].start(decode(BenchmarkStart, document))
            case "stage":
                return self._stage()
            case "answer":
                opening = self._begun()[1].open(decode(OpeningRequest, document))
                self._free()
                return encode(opening)
            case "close":
                self.close()
            case _:
                raise InvalidInput(f"no step is called {name[:40]!r}", code="ENGINE_COMMAND")
        return b""

    def close(self) -> None:
        """Forget the challenge and free the device's memory."""
        self._free()
        self._prover = None

    def _stage(self) -> bytes:
        runner, prover = self._begun()
        stage = prover.stage
        if stage is None:
            raise Conflict("every stage is done", code="BENCHMARK_ORDER")
        return encode(prover.finished(runner.leaves(stage)))

    def _free(self) -> None:
        if self._runner is not None:
            self._runner.close()

    def _begun(self) -> tuple[StageRunner, BenchmarkProver]:
        if self._runner is None or self._prover is None:
            raise Conflict("no challenge is open", code="BENCHMARK_ORDER")
        return self._runner, self._prover


def proving_on(
    device: str | None, cache_dir: Path | None, open_device: OpenDevice | None = None
) -> Proving:
    """The device's side on a device of this machine, "reference" included."""
    return Proving(_opener(device, cache_dir, open_device))


def recompute_command(
    plan: BenchmarkPlan,
    start: BenchmarkStart,
    roots: Sequence[bytes],
    sampling_seed: bytes,
    opening: BenchmarkOpening,
) -> dict[str, Any]:
    """What :func:`recomputed` reads, as JSON values."""
    return {
        "plan": encode(plan).hex(),
        "start": encode(start).hex(),
        "roots": [root.hex() for root in roots],
        "sampling_seed": sampling_seed.hex(),
        "opening": encode(opening).hex(),
    }


def recomputed(
    command: Mapping[str, Any], device: str | None, cache_dir: Path | None
) -> list[bytes]:
    """What every opened place comes to on ``device``, in order.

    InvalidInput BENCHMARK_OPENING for an opening that its verifier should have refused.
    """
    plan = decode(BenchmarkPlan, bytes.fromhex(command["plan"]))
    tasks = check_opening(
        plan,
        decode(BenchmarkStart, bytes.fromhex(command["start"])),
        [bytes.fromhex(root) for root in command["roots"]],
        bytes.fromhex(command["sampling_seed"]),
        decode(BenchmarkOpening, bytes.fromhex(command["opening"])),
    )
    if isinstance(tasks, Verdict):
        raise InvalidInput(f"{tasks.reason}: {tasks.detail}", code="BENCHMARK_OPENING")
    recomputer = Recomputer(plan.shapes, _opener(device, cache_dir))
    try:
        return recomputer.values(tasks)
    finally:
        recomputer.close()


def _opener(
    device: str | None, cache_dir: Path | None, open_device: OpenDevice | None = None
) -> Opener:
    from flopmarket.engine.runtime.open import open_session, opened
    from flopmarket.engine.runtime.resident import CompileOptions

    options = CompileOptions(cache_dir=cache_dir)
    opener = opened if open_device is None else open_device
    return lambda program: open_session(program, device, options, opener=opener)
