"""Running a step program: the one interface behind which the reference and OpenCL devices stand.

A :class:`Session` holds the frozen and state tensors of one program on one device and advances
them step by step. ``jobs/runner.py`` (worker, auditor and ``run_local`` alike) knows nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from flopmarket.engine import dtypes, reference
from flopmarket.engine.errors import EngineError

if TYPE_CHECKING:
    from flopmarket.engine.program import Program, TensorSpec

Array = np.ndarray[Any, Any]


class Session(Protocol):
    """A program resident on a device.

    ``load`` once, then ``step`` any number of times. Arrays go in and come out in canonical form
    (C order, little-endian, one NaN). After ``close`` the device memory is overwritten and freed.
    """

    @property
    def program(self) -> Program:
        """What runs."""
        ...

    def load(self, frozen: Mapping[str, Array], state: Mapping[str, Array]) -> None:
        """Set every frozen and state tensor; raises EngineError (INPUT_*) on any mismatch."""
        ...

    def step(self, inputs: Mapping[str, Array], *, seed: int, step: int) -> dict[str, Array]:
        """Advance the state by one step and return the outputs by name."""
        ...

    def read_state(self) -> dict[str, Array]:
        """Copy of the present state."""
        ...

    def close(self) -> None:
        """Overwrite and release device memory; the session is unusable afterwards."""
        ...


def check_tensors(specs: tuple[TensorSpec, ...], given: Mapping[str, Array], kind: str) -> None:
    """Raise EngineError unless ``given`` holds exactly the named tensors, with their forms."""
    names = {spec.name for spec in specs}
    if unknown := sorted(set(given) - names):
        raise EngineError(f"{kind} has no tensor {unknown[0]!r}", code="INPUT_UNKNOWN")
    for spec in specs:
        if spec.name not in given:
            raise EngineError(f"{kind} tensor {spec.name!r} is missing", code="INPUT_MISSING")
        array = given[spec.name]
        if array.shape != spec.shape or array.dtype != spec.dtype.numpy:
            raise EngineError(
                f"{kind} tensor {spec.name!r} wants {spec.dtype}{list(spec.shape)}, "
                f"got {array.dtype}{list(array.shape)}",
                code="INPUT_SHAPE",
            )


def seed_words(seed: int) -> Array:
    """The 64-bit job seed as the uint32[2] that programs see, low word first."""
    return np.array([seed & 0xFFFFFFFF, seed >> 32], dtype=np.uint32)


class ReferenceSession:
    """A program run by the bit-exact interpreter, on the host, slowly."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._frozen: dict[str, Array] = {}
        self._state: dict[str, Array] = {}

    @property
    def program(self) -> Program:
        return self._program

    def load(self, frozen: Mapping[str, Array], state: Mapping[str, Array]) -> None:
        check_tensors(self._program.frozen, frozen, "frozen")
        check_tensors(self._program.state, state, "state")
        self._frozen = {name: dtypes.canonical(array) for name, array in frozen.items()}
        self._state = {name: dtypes.canonical(array) for name, array in state.items()}

    def step(self, inputs: Mapping[str, Array], *, seed: int, step: int) -> dict[str, Array]:
        program = self._program
        check_tensors(program.inputs, inputs, "input")
        given = {"frozen": self._frozen, "state": self._state, "input": inputs}
        leaves: dict[Any, Array] = {}
        for node in program.leaves:
            kind, name = node.arg
            if kind == "seed":
                leaves[node] = seed_words(seed)
            elif kind == "step":
                leaves[node] = np.asarray(step, dtype=np.uint32)
            else:
                leaves[node] = np.asarray(given[kind][name])
        values = reference.evaluate([*program.state_nodes, *program.output_nodes], leaves)
        count = len(program.state)
        self._state = {s.name: v for s, v in zip(program.state, values[:count], strict=True)}
        return {s.name: v for s, v in zip(program.outputs, values[count:], strict=True)}

    def read_state(self) -> dict[str, Array]:
        return {name: array.copy() for name, array in self._state.items()}

    def close(self) -> None:
        self._frozen, self._state = {}, {}
