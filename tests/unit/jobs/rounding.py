"""Devices that round in ways of their own, in NumPy: honest ones and cheats, operation by
operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from flopmarket.engine import dtypes
from flopmarket.engine.exact import DOT_CHUNK
from flopmarket.engine.graph import Op
from flopmarket.engine.program import Program
from flopmarket.engine.runtime.session import ReferenceSession, Session, seed_words
from flopmarket.jobs.bundle import Array, Tensors
from flopmarket.jobs.operations import Operation, Part, StepPlan
from flopmarket.jobs.process import EngineServer
from flopmarket.jobs.spec import JobSpec
from flopmarket.jobs.tracing import Evaluate, by_reference

LEAST = np.float32(2.0**-126)


def splitting(step: int, at: int, op: Operation, sources: Sequence[Array]) -> Array:
    """No fused multiply-add: products are rounded before they are added, in the same order."""
    node = op.node
    if node is None or node.dtype is not dtypes.float32 or node.op not in (Op.FMA, Op.DOT):
        return by_reference(step, at, op, sources)
    with np.errstate(all="ignore"):
        if node.op is Op.FMA:
            return dtypes.canonical(np.asarray(sources[0] * sources[1] + sources[2]))
        a, b = (source.astype(np.float32) for source in sources[:2])
        total = np.zeros(node.shape, np.float32)
        for start in range(0, a.shape[2], DOT_CHUNK):
            chunk = np.zeros_like(total)
            for k in range(start, min(start + DOT_CHUNK, a.shape[2])):
                chunk = chunk + a[:, :, k, None] * b[:, None, k, :]
            total = total + chunk
    return dtypes.canonical(total)


def flushed(x: Array) -> Array:
    """Subnormal numbers are zero."""
    if x.dtype != np.float32:
        return x
    return np.where(np.abs(x) < LEAST, np.float32(0), x)


def flushing(step: int, at: int, op: Operation, sources: Sequence[Array]) -> Array:
    """Subnormal operands and results are zero, and quotients go through the reciprocal."""
    node = op.node
    if node is None or op.committed or node.op in (Op.INPUT, Op.VIEW, Op.WHERE, Op.CAST):
        return by_reference(step, at, op, sources)
    sources = [flushed(source) for source in sources]
    if node.op is Op.DIV and node.dtype is dtypes.float32:
        with np.errstate(all="ignore"):
            quotient = np.asarray(sources[0] * (np.float32(1) / sources[1]))
        plain = by_reference(step, at, op, sources)
        return flushed(np.where(np.isfinite(quotient), quotient, plain))
    return flushed(by_reference(step, at, op, sources))


def with_operands(change: Callable[[Array], Array]) -> Evaluate:
    """Products of cheaper operands."""

    def evaluate(step: int, at: int, op: Operation, sources: Sequence[Array]) -> Array:
        if op.node is not None and op.node.op is Op.DOT:
            sources = [change(source) for source in sources[:2]] + list(sources[2:])
        return by_reference(step, at, op, sources)

    return evaluate


def to_half(x: Array) -> Array:
    return x.astype(np.float16).astype(np.float32)


def to_bfloat16(x: Array) -> Array:
    return x.astype(dtypes.bfloat16.numpy).astype(np.float32)


HONEST: Mapping[str, Evaluate] = {
    "exact": by_reference,
    "no fused multiply-add": splitting,
    "subnormals are zero": flushing,
}
CHEATS: Mapping[str, Evaluate] = {
    "operands in float16": with_operands(to_half),
    "operands in bfloat16": with_operands(to_bfloat16),
}


class RoundingSession(ReferenceSession):
    """A program on such a device, operation by operation."""

    def __init__(self, program: Program, evaluate: Evaluate) -> None:
        super().__init__(program)
        self._evaluate = evaluate
        self._plan = StepPlan(program)
        self._given: dict[str, Tensors] = {}

    def load(self, frozen: Mapping[str, Array], state: Mapping[str, Array]) -> None:
        super().load(frozen, state)
        self._given = {"frozen": dict(frozen), "state": dict(state)}

    def step(self, inputs: Mapping[str, Array], *, seed: int, step: int) -> dict[str, Array]:
        given = {**self._given, "input": dict(inputs)}
        values: list[Array] = []
        ends: dict[Part, Tensors] = {Part.STATE: {}, Part.OUTPUT: {}}
        for at, op in enumerate(self._plan.operations):
            sources = [values[source] for source in op.sources]
            if op.node is not None and op.node.op is Op.INPUT:
                kind, name = op.node.arg
                if kind in ("seed", "step"):
                    known = seed_words(seed) if kind == "seed" else np.asarray(step, np.uint32)
                else:
                    known = given[kind][name]
                sources = [known]
            values.append(self._evaluate(step, at, op, sources))
            if op.committed:
                ends[op.part][op.name] = values[-1]
        self._given["state"] = ends[Part.STATE]
        return ends[Part.OUTPUT]

    def read_state(self) -> dict[str, Array]:
        return {name: value.copy() for name, value in self._given["state"].items()}


class RoundingServer(EngineServer):
    """An engine of such a device."""

    evaluate: Evaluate = staticmethod(by_reference)

    def open_session(self, program: Program, spec: JobSpec, *, fusion: bool = True) -> Session:
        return RoundingSession(program, self.evaluate)
