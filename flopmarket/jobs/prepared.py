"""A job that is ready to be priced, signed, shipped or run here: program, tensors and numbers.

:class:`~flopmarket.jobs.job.TrainingJob` and ``InferenceJob`` prepare one; the client submits it;
:func:`run_local` runs it on this machine through the very runner that a worker uses, and comes to
the same digests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from flopmarket.engine.exact import PROFILE
from flopmarket.engine.numerics import Numerics
from flopmarket.engine.program import Program
from flopmarket.engine.runtime.open import open_session
from flopmarket.engine.runtime.resident import CompileOptions
from flopmarket.jobs import bundle
from flopmarket.jobs.bundle import Array, Tensors
from flopmarket.jobs.instrument import instrument
from flopmarket.jobs.order import rows_of_output
from flopmarket.jobs.runner import JobRunner, OnStep, check_data, check_job
from flopmarket.jobs.spec import (
    NO_CLASS,
    DataOrder,
    JobKind,
    JobSpec,
    Mode,
    class_hex,
    segment_steps_in,
)
from flopmarket.market.order import MARKET_ORDER, OrderTerms
from flopmarket.trust import merkle
from flopmarket.trust.audit_policy import Level

LOCAL_BUYER = "local"
"""Account name in the spec of a job that never leaves this machine."""


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """Digests of one finished segment, 32 bytes each."""

    first_step: int
    steps: int
    state_root: bytes
    outputs_root: bytes


@dataclass(frozen=True)
class Result:
    """What a job came to.

    ``state`` is the final state; ``outputs`` stacks each output over all steps: [steps, ...].
    ``state_root`` and ``outputs_root`` (over the segments' roots in order) are the digests that
    a receipt states for the same job run by strangers (in class mode, by devices of the class
    ``device_class``, 64 hex digits; otherwise it is empty).
    """

    state: Tensors
    outputs: Tensors
    segments: tuple[SegmentRecord, ...]
    state_root: bytes
    order: DataOrder
    mode: Mode = Mode.EXACT
    device_class: str = ""

    @property
    def outputs_root(self) -> bytes:
        """Root over the outputs of all segments, in order."""
        return merkle.sequence_root(segment.outputs_root for segment in self.segments)

    def rows(self, name: str) -> Array:
        """An output with one row per row of sequential data: [rows, ...].

        Raises InvalidInput (RESULT_NOT_ROWS) when the output has no batch axis.
        """
        return rows_of_output(self.order, name, self.outputs[name])


@dataclass(frozen=True)
class PreparedJob:
    """Everything a job is made of, before money and signatures.

    ``data`` tensors have the rows on their first axis, one tensor per input of the program.
    """

    kind: JobKind
    program: Program
    frozen: Tensors
    state: Tensors
    data: Tensors
    order: DataOrder
    seed: int
    steps: int
    segment_steps: int
    checkpoint_segments: int = 1
    title: str = ""

    def __post_init__(self) -> None:
        bundle.check_specs(self.frozen, self.program.frozen, "frozen")
        bundle.check_specs(self.state, self.program.state, "state")
        check_data(self.program, self.data, self.order.rows, self.order.batch)

    def spec(
        self,
        *,
        buyer: str,
        max_price_nano: int,
        deadline_us: int,
        nonce: bytes,
        order: OrderTerms = MARKET_ORDER,
        verification: Level = Level.DETER,
        mode: Mode = Mode.EXACT,
        class_digest: bytes = NO_CLASS,
    ) -> JobSpec:
        """The specification to sign. ``nonce``: 16 bytes that make two equal jobs two jobs.

        ``class_digest`` names the class of devices of a job in class mode. In tolerance mode
        segments are as long as the mode allows, at most.
        """
        frozen_root, state_root, data_root = self._roots
        return JobSpec(
            kind=self.kind,
            program_digest=self.program.digest,
            profile=PROFILE,
            mode=mode,
            class_digest=class_digest,
            frozen_root=frozen_root,
            state_root=state_root,
            data_root=data_root,
            data_order=self.order,
            seed=self.seed,
            steps=self.steps,
            segment_steps=segment_steps_in(mode, self.segment_steps),
            checkpoint_segments=self.checkpoint_segments,
            max_memory_bytes=self.program.cost.peak_memory_bytes,
            max_price_nano=max_price_nano,
            order=order,
            verification=verification,
            deadline_us=deadline_us,
            buyer=buyer,
            nonce=nonce,
        )

    @cached_property
    def _roots(self) -> tuple[bytes, bytes, bytes]:
        return bundle.root(self.frozen), bundle.root(self.state), bundle.root(self.data)

    def artifacts(self) -> dict[str, bytes]:
        """Files to upload: 'program', 'data', and 'frozen' and 'state' unless they are empty."""
        files = {"program": self.program.to_bytes(), "data": bundle.save(self.data)}
        if self.frozen:
            files["frozen"] = bundle.save(self.frozen)
        if self.state:
            files["state"] = bundle.save(self.state)
        return files


def run_local(
    job: PreparedJob,
    device: str | None = None,
    *,
    mode: Mode = Mode.EXACT,
    options: CompileOptions | None = None,
    on_step: OnStep | None = None,
    state: Tensors | None = None,
    first_step: int = 0,
    steps: int | None = None,
    work_dir: Path | None = None,
) -> Result:
    """Run ``job`` here, without a market.

    ``mode``: in class mode the device runs its fast kernels, and the result says which class it is
    of (Unavailable CLASS_NONE when it has none); in tolerance mode segments are as short as they
    have to be, and the kernels are the exact ones.
    ``device``: as in ``fm.devices()``, 'reference' for the interpreter, None for the first one.
    ``state`` and ``first_step`` resume from a checkpoint (a state after that many steps);
    ``steps`` ends after so many steps of the job. With ``work_dir`` every segment's end state is
    kept there as ``state-<step>.safetensors``.
    """
    class_digest = NO_CLASS
    if mode is Mode.CLASS:
        from flopmarket.jobs.classes import class_of_device  # the class suite is seldom needed

        options = replace(options or CompileOptions(), numerics=Numerics.FAST)
        class_digest = class_of_device(device, options)
    spec = job.spec(
        buyer=LOCAL_BUYER,
        max_price_nano=0,
        deadline_us=0,
        nonce=bytes(16),
        mode=mode,
        class_digest=class_digest,
    )
    check_job(spec, job.program, job.frozen, job.data)
    end = job.steps if steps is None else min(job.steps, first_step + steps)
    session = open_session(instrument(job.program), device, options)
    try:
        runner = JobRunner(session, spec, job.frozen, job.data)
        root = runner.load(job.state if state is None else state, first_step)
        records: list[SegmentRecord] = []
        collected: list[Tensors] = []
        at = first_step
        while at < end:
            count = min(spec.segment_steps - at % spec.segment_steps, end - at)
            segment = runner.run_segment(at, count, on_step=on_step)
            at += segment.steps_done
            root = segment.state_root_after
            records.append(SegmentRecord(segment.first_step, count, root, segment.outputs_root))
            collected.append(segment.outputs)
            if work_dir is not None:
                path = work_dir / f"state-{at}.safetensors"
                path.write_bytes(bundle.save(runner.read_state()))
        return Result(
            state=runner.read_state(),
            outputs=_stack(collected),
            segments=tuple(records),
            state_root=root,
            order=job.order,
            mode=mode,
            device_class=class_hex(spec),
        )
    finally:
        session.close()


def _stack(segments: list[Tensors]) -> Tensors:
    if not segments:
        return {}
    return {name: np.concatenate([s[name] for s in segments]) for name in segments[0]}
