"""The table of ONNX operators, and what a handler is given.

A handler is a function of (node, inputs...) that builds lazy tensors. It is registered with the
opset version from which its semantics hold; the newest registration that is not newer than the
model's opset is used, so a changed operator is a second function beside the first one.

    @op("Clip", since=11)
    def clip(node: OpNode, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
        ...

Omitted optional inputs arrive as None. A handler returns one value, or a tuple with one entry per
output that the operator defines (entries nobody asked for may be None).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from flopmarket.engine.tensor import Tensor

if TYPE_CHECKING:
    from flopmarket.engine.formats.onnx.interpret import Subgraph

Array = np.ndarray[Any, Any]

Value = Any
"""One of: Tensor; Narrow (numbers of 8 bits and fewer as codes, :mod:`narrow`); numpy array (host
data that no tensor holds: strings as object arrays, and the ml_dtypes that a Narrow is made from);
list (an ONNX sequence); dict (an ai.onnx.ml map); None (an absent optional)."""

Handler = Callable[..., Any]

DOMAINS = {"": "ai.onnx", "ai.onnx": "ai.onnx"}
"""The default domain has two spellings."""


class Host(Protocol):
    """What the interpreter offers to handlers."""

    def host(self, value: Value, why: str) -> Array:
        """The value as a numpy array, now. See :meth:`OpNode.host`."""
        ...

    def known(self, value: Tensor) -> Array | None:
        """The same, or None where only a program's run gives the value."""
        ...

    def decidable(self, value: Tensor) -> bool:
        """Whether it would be known if the model were traced anew for the numbers it is fed."""
        ...

    def settle(self, values: Sequence[Value]) -> list[Value]:
        """The values with every tensor that can be computed now replaced by its data."""
        ...


@dataclass(frozen=True, slots=True)
class OpNode:
    """One node of an ONNX graph as its handler sees it.

    ``attributes`` are decoded: int, float, str, bytes, numpy array (TENSOR), Subgraph (GRAPH), or a
    list of one of these. ``outputs`` are the names asked for, '' where nobody uses an output.
    """

    op_type: str
    domain: str
    opset: int
    name: str
    attributes: dict[str, Any]
    outputs: tuple[str, ...]
    interpreter: Host

    def get(self, name: str, default: Any = None) -> Any:
        """Attribute ``name``, or ``default``."""
        return self.attributes.get(name, default)

    def ints(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...] | None:
        """An INTS attribute as a tuple, or ``default``."""
        value = self.attributes.get(name, default)
        return None if value is None else tuple(int(v) for v in value)

    def graph(self, name: str) -> Subgraph:
        """A GRAPH attribute."""
        value: Subgraph = self.attributes[name]
        return value

    def host(self, value: Value, why: str) -> Array:
        """The value as a numpy array while the graph is being built.

        For what decides shapes (the target of a Reshape, the axes of a reduction). A value that
        depends on the model's inputs is computed on the spot in a local run; in a traced program
        it is refused with OnnxDataDependent, which names this node and ``why`` ("the target
        shape").
        """
        return self.interpreter.host(value, f"{why} of {self.op_type} {self.name!r}")

    def host_ints(self, value: Value, why: str) -> tuple[int, ...]:
        """:meth:`host` as a flat tuple of ints."""
        return tuple(int(v) for v in np.asarray(self.host(value, why)).reshape(-1))


@dataclass(frozen=True, slots=True)
class _Entry:
    since: int
    handler: Handler


_TABLE: dict[tuple[str, str], list[_Entry]] = {}


def op(op_type: str, since: int = 1, domain: str = "ai.onnx") -> Callable[[Handler], Handler]:
    """Register a handler for ``op_type`` from opset ``since`` on."""

    def register(handler: Handler) -> Handler:
        entries = _TABLE.setdefault((domain, op_type), [])
        assert all(entry.since != since for entry in entries), (op_type, since)
        entries.append(_Entry(since, handler))
        entries.sort(key=lambda entry: -entry.since)
        return handler

    return register


def find(op_type: str, domain: str, opset: int) -> Handler | None:
    """The handler of an operator at an opset version, or None."""
    for entry in _TABLE.get((DOMAINS.get(domain, domain), op_type), ()):
        if entry.since <= opset:
            return entry.handler
    return None


def known() -> frozenset[tuple[str, str]]:
    """Every registered (domain, operator)."""
    return frozenset(_TABLE)


def tensor(value: Value) -> Tensor:
    """``value`` as a Tensor: host arrays of an engine dtype become literals.

    Raises OnnxUnsupported for strings, sequences and number formats that no tensor holds.
    """
    from flopmarket.engine.formats.onnx.values import as_tensor  # values builds on this table

    return as_tensor(value)
