"""The page alone suffices: program bytes read by a decoder that was written from docs/numerics.md.

Nothing of the engine's codec is used to read, only to compare with.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from flopmarket.engine import dtypes, exact
from flopmarket.engine.golden import suite
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.program import Program
from tests.engine.backend.random_graphs import as_program, grown

PAGE = Path(__file__).parents[3] / "docs" / "numerics.md"
DTYPES = (
    *("bool", "uint8", "int8", "int32", "uint32", "int64", "uint64", "float32", "float16"),
    *("bfloat16", "float64", "int16", "uint16"),
)
LOOP = 19


@dataclass
class Stranger:
    """Reads a program as section 7 of the page says."""

    data: bytes
    at: int = 0
    bodies: list[Any] = field(default_factory=list)

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def take(self, count: int) -> bytes:
        self.at += count
        return self.data[self.at - count : self.at]

    def text(self) -> str:
        return self.take(self.number()).decode()

    def form(self) -> tuple[str, tuple[int, ...]]:
        code, rank = self.number(), self.number()
        return DTYPES[code], tuple(self.number() for _ in range(rank))

    def argument(self) -> Any:
        kind = self.number()
        if kind == 0:
            zigzag = self.number()
            return -(zigzag + 1) // 2 if zigzag & 1 else zigzag // 2
        if kind == 1:
            return self.text()
        if kind == 2:
            return self.take(self.number())
        assert kind == 3
        return tuple(self.argument() for _ in range(self.number()))

    def loop(self) -> tuple[int, int, int, Any]:
        turns, reverse, which, body = (self.number() for _ in range(4))
        if not body:
            values = tuple(self.number() for _ in range(3))
            nodes = self.nodes()
            results = tuple(self.number() for _ in range(self.number()))
            self.bodies.append((values, nodes, results))
            body = len(self.bodies)
        return turns, reverse, which, self.bodies[body - 1]

    def nodes(self) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for at in range(self.number()):
            operation = self.number()
            form = self.form()
            sources = tuple(self.number() for _ in range(self.number()))
            assert all(source < at for source in sources)
            argument = self.loop() if operation == LOOP else self.argument()
            found.append((operation, form, sources, argument))
        return found

    def tensors(self) -> list[tuple[str, Any]]:
        return [(self.text(), self.form()) for _ in range(self.number())]

    def program(self) -> dict[str, Any]:
        assert self.take(9) == b"FLOPPROG\x01"
        assert self.text() == "FX1-d256-l64-b4096"
        tensors = {kind: self.tensors() for kind in ("frozen", "state", "inputs")}
        nodes = self.nodes()
        following = [self.number() for _ in tensors["state"]]
        outputs = [(self.text(), self.number()) for _ in range(self.number())]
        assert self.at == len(self.data)
        return tensors | {"nodes": nodes, "following": following, "outputs": outputs}


def described(nodes: tuple[Node, ...]) -> list[tuple[Any, ...]]:
    """The engine's nodes in the stranger's terms."""
    index = {node: at for at, node in enumerate(nodes)}
    rows = []
    for node in nodes:
        argument = node.arg
        if node.op is Op.LOOP:
            count, reverse, body, which = node.arg
            inner = {inside: at for at, inside in enumerate(body.nodes)}
            results = tuple(inner[result] for result in body.results)
            values = (body.carries, body.items, body.shared)
            argument = (count, reverse, which, (values, described(body.nodes), results))
        form = (node.dtype.name, node.shape)
        rows.append((int(node.op), form, tuple(index[s] for s in node.src), argument))
    return rows


def check(program: Program) -> None:
    data = program.to_bytes()
    found = Stranger(data).program()
    assert found["nodes"] == described(program.nodes)
    assert [name for name, _ in found["state"]] == [spec.name for spec in program.state]
    assert [found["nodes"][at] for _, at in found["outputs"]] == [
        described(program.nodes)[program.nodes.index(node)] for node in program.output_nodes
    ]
    assert program.digest == hashlib.sha256(b"flopmarket.program.v1\0" + data).digest()


@pytest.mark.parametrize("name", list(suite.programs()))
def test_a_stranger_reads_the_golden_programs(name: str) -> None:
    check(suite.programs()[name]().program)


def test_a_stranger_reads_random_programs() -> None:
    for seed in range(40):
        outputs, leaves = grown(Random(seed), seed, "x", kind="input")
        check(as_program(outputs, leaves))


def test_the_page_names_every_primitive_type_and_constant() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for op in Op:
        assert f"{op.name}" in page, op
    for code, dtype in enumerate(dtypes.DTYPES):
        assert f"{dtype.name} {code}" in page.replace("\n", " ")
    assert tuple(dtype.name for dtype in dtypes.DTYPES) == DTYPES
    assert exact.PROFILE in page
    for constant in (exact.DOT_CHUNK, exact.REDUCE_BLOCK, exact.REDUCE_LANES):
        assert str(constant) in page
    for nan in dtypes.CANONICAL_NAN.values():
        assert f"0x{nan:X}" in page
