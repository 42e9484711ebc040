"""Golden programs: small graphs whose bits are known, on both sides of every threshold of FX1.

Admission runs them on a device with the code generator as it stands; ``flop bench golden`` prints
their digests. ``programs.json`` holds, for each, the digest of the program and the digest of its
results as :mod:`flopmarket.engine.reference` computes them. Inputs come from
:mod:`flopmarket.engine.samples`, so that they are the same under every NumPy.

After a change that is meant to change a program, ``make golden`` writes the file anew. A change of
a result under the same program is a change of the law, and a new profile.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from flopmarket.engine import dtypes, graph, reference
from flopmarket.engine.dtypes import DType
from flopmarket.engine.exact import PROFILE
from flopmarket.engine.graph import Node
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.engine.samples import Sampler

Array = np.ndarray[Any, Any]

_RESULT_DOMAIN = b"flopmarket golden result v1\0"
_FILE = "programs.json"


@dataclass(frozen=True, slots=True)
class Golden:
    """One golden program with a value for each of its leaves. ``labels`` name the results."""

    name: str
    program: Program
    leaves: Mapping[Node, Array]
    labels: tuple[str, ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The results: next states, then outputs."""
        return (*self.program.state_nodes, *self.program.output_nodes)

    @property
    def needs_float64(self) -> bool:
        """Whether a device without float64 has to refuse this program."""
        return any(node.dtype is dtypes.float64 for node in self.program.nodes)


@dataclass(frozen=True, slots=True)
class Committed:
    """What ``programs.json`` says of one program, both in hex."""

    program: str
    result: str


class Leaves:
    """Collects the inputs and outputs of a golden program that is being written."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.sampler = Sampler(seed)
        self._specs: list[TensorSpec] = []
        self._values: dict[Node, Array] = {}
        self._outputs: list[tuple[str, Node]] = []

    def add(self, array: Array) -> Node:
        """An input that holds ``array``."""
        dtype = dtypes.from_numpy(array.dtype)
        spec = TensorSpec(f"x{len(self._specs)}", dtype, array.shape)
        node = graph.input_("input", spec.name, dtype, array.shape)
        self._specs.append(spec)
        self._values[node] = dtypes.canonical(array)
        return node

    def bell(self, *shape: int, dtype: DType = dtypes.float32) -> Node:
        """Roughly normal floats."""
        return self.add(self.sampler.bell(*shape, dtype=dtype))

    def integers(self, dtype: DType, *shape: int) -> Node:
        """Integers over the whole range of ``dtype``."""
        return self.add(self.sampler.integers(dtype, *shape))

    def give(self, label: str, node: Node) -> None:
        """A result. Labels are unique within a program."""
        self._outputs.append((label, node))

    def golden(self) -> Golden:
        """The finished program."""
        program = Program.build(
            frozen=[], state=[], inputs=self._specs, next_state=[], outputs=self._outputs
        )
        labels = tuple(label for label, _ in self._outputs)
        return Golden(self.name, program, self._values, labels)


def programs() -> dict[str, Callable[[], Golden]]:
    """Every golden program by name, each made when it is asked for; the order is fixed."""
    from flopmarket.engine.golden import programs as rows  # written with this module's Leaves

    return rows.programs()


@cache
def committed() -> Mapping[str, Committed]:
    """The file of this version, by name of the program."""
    text = resources.files("flopmarket.engine.golden").joinpath(_FILE).read_text(encoding="utf-8")
    value = json.loads(text)
    assert value["profile"] == PROFILE, "programs.json belongs to another profile"
    rows: Mapping[str, Mapping[str, str]] = value["programs"]
    return {name: Committed(row["program"], row["result"]) for name, row in rows.items()}


def result_digest(name: str, values: Sequence[Array]) -> str:
    """64 hex digits over the bytes of a golden program's results, as they are, in order.

    Nothing is made canonical here: a device that stores another NaN has another digest.
    """
    digest = hashlib.sha256(_RESULT_DOMAIN + name.encode() + b"\0")
    for array in values:
        form = f"{dtypes.from_numpy(array.dtype).name}{list(array.shape)}\0"
        digest.update(form.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def expected(golden: Golden) -> list[Array]:
    """The results by the reference interpreter."""
    return reference.evaluate(golden.nodes, golden.leaves)


def write_file() -> str:
    """The text that ``programs.json`` should have, from the reference. Takes about a minute."""
    rows = {}
    for name, make in programs().items():
        golden = make()
        result = result_digest(name, expected(golden))
        rows[name] = {"program": golden.program.digest.hex(), "result": result}
    return json.dumps({"profile": PROFILE, "programs": rows}, indent=1) + "\n"
