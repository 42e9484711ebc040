"""A model after reading: checked, decoded, in topological order, free of protobuf.

:mod:`read` makes these, :mod:`interpret` walks them. Names inside are as the file has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

Dimension = int | str | None
"""A length, the name of one that is bound later, or unknown."""

FunctionKey = tuple[str, str, str]
"""(domain, name, overload) of a model-local function."""


@dataclass(frozen=True, slots=True)
class ValueType:
    """Type of a graph input or output.

    ``kind``: 'tensor', 'sequence', 'optional', or another word for what is not computed here.
    ``dtype`` is the numpy type of a tensor (object for strings), ``element`` the type inside a
    sequence or optional, ``shape`` is None where even the rank is unknown.
    """

    kind: str
    dtype: np.dtype[Any] | None = None
    shape: tuple[Dimension, ...] | None = None
    element: ValueType | None = None


@dataclass(frozen=True, slots=True)
class ValueSpec:
    """Name and type of a graph input or output."""

    name: str
    type: ValueType


@dataclass(frozen=True, slots=True)
class AttributeReference:
    """An attribute that takes the value of the enclosing function's attribute ``name``."""

    name: str


@dataclass(frozen=True, slots=True)
class Step:
    """One node: an operator or a call of a function. Absent inputs and outputs are ''.

    ``attributes`` are decoded as the registry states, with :class:`Graph` for GRAPH.
    ``drops`` are values of the graph that nobody reads after this step.
    """

    op_type: str
    domain: str
    overload: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    drops: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """How errors call this node."""
        label = self.name or next((name for name in self.outputs if name), "")
        return f"{self.op_type} {label!r}"


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph or subgraph; ``captured`` are the names that it reads from the graphs around it."""

    name: str
    inputs: tuple[ValueSpec, ...]
    outputs: tuple[ValueSpec, ...]
    initialisers: dict[str, Array]
    steps: tuple[Step, ...]
    captured: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Function:
    """A function body. ``attributes`` holds defaults; names without one must be given."""

    key: FunctionKey
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    opsets: dict[str, int]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class ParsedModel:
    """A whole model."""

    graph: Graph
    functions: dict[FunctionKey, Function]
    opsets: dict[str, int]
