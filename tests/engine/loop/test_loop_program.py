"""Programs with loops: one byte string each, counted work, and nothing illegal from strangers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flopmarket.engine import dtypes, graph, limits, loop, reference, trace
from flopmarket.engine.codec import Writer
from flopmarket.engine.errors import GraphError
from flopmarket.engine.exact import PROFILE
from flopmarket.engine.functional import fori_loop, scan
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.runtime.session import ReferenceSession
from flopmarket.engine.tensor import Tensor
from tests.engine.loop.unrolled import Tensors

F32 = dtypes.float32
CARRY = loop.placeholder("carry", 0, F32, (3,))
ITEM = loop.placeholder("item", 0, F32, (3,))
SHARED = loop.placeholder("shared", 0, F32, (3,))
X = graph.input_("input", "x", F32, (3,))
XS = graph.input_("input", "xs", F32, (4, 3))


def program(*outputs: Node) -> Program:
    return Program.build(
        frozen=[],
        state=[],
        inputs=[TensorSpec("x", F32, (3,)), TensorSpec("xs", F32, (4, 3))],
        next_state=[],
        outputs=[(f"y{at}", node) for at, node in enumerate(outputs)],
    )


def simple() -> loop.Group:
    """c = c * s + x, and the sum of both stacked."""
    following = graph.add(graph.mul(CARRY, SHARED), ITEM)
    body = loop.body_of([following, graph.add(CARRY, ITEM)], 1, 1, 1)
    return loop.Group((X, XS, X), 4, False, body)


def nested() -> Program:
    def step(state: Any, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        def outer(c: Tensors, x: Tensors) -> Any:
            (h,), (ys,) = scan(lambda d, y: ((d[0] * x[0] + c[0],), (d[0],)), [c[0]], length=3)
            return (h,), (ys.sum(0),)

        (last,), (ys,) = scan(outer, [inputs["x"]], [inputs["xs"]])
        (again,), _ = scan(outer, [last], [inputs["xs"]], reverse=True)
        return {}, {"last": last, "ys": ys, "again": again}

    x = TensorSpec("x", F32, (3,))
    return trace.trace(step, {}, {"x": x, "xs": TensorSpec("xs", F32, (4, 3))})


@pytest.mark.parametrize("make", [lambda: program(loop.result(simple(), 0)), nested])
def test_bytes_there_and_back(make: Callable[[], Program]) -> None:
    first = make()
    data = first.to_bytes()
    again = Program.from_bytes(data)
    assert again == first and again.to_bytes() == data and again.digest == first.digest
    rng = np.random.default_rng(1)
    inputs = {s.name: rng.standard_normal(s.shape).astype(np.float32) for s in first.inputs}
    values = []
    for one in (first, again):
        session = ReferenceSession(one)
        session.load({}, {})
        values.append({n: a.tobytes() for n, a in session.step(inputs, seed=1, step=0).items()})
    assert values[0] == values[1]


def test_a_body_used_twice_is_written_once() -> None:
    group = simple()
    one = program(loop.result(group, 0))
    last = loop.result(group, 0)
    twice = program(loop.result(loop.Group((last, XS, X), 4, True, group.body), 0))
    assert len(twice.to_bytes()) - len(one.to_bytes()) < 20


def test_bodies_are_canonical_and_stay_so() -> None:
    node = loop.result(simple(), 0)
    (once,) = canonicalise([node])
    (twice,) = canonicalise([once])
    assert once is twice and once is not node
    assert {n.op for n in once.arg[2].nodes} == {Op.INPUT, Op.FMA, Op.ADD}


def test_no_fma_crosses_the_border_of_a_body() -> None:
    """A carry is rounded: the product of one turn does not fuse with the sum of the next."""
    body = loop.body_of([graph.mul(CARRY, SHARED), graph.add(CARRY, ITEM)], 1, 1, 1)
    group = loop.Group((graph.mul(X, X), XS, X), 4, False, body)
    nodes = canonicalise([graph.add(loop.result(group, 0), X), loop.result(group, 1)])
    assert Op.FMA not in {n.op for n in [*graph.topological(nodes), *nodes[1].arg[2].nodes]}


def test_work_is_counted_by_turns() -> None:
    cost = program(loop.result(simple(), 0)).cost
    assert cost.flops["elementwise-f32"] == 4 * (
        2 * 3
    )  # an FMA of 3 elements; nobody reads the sum
    both = program(loop.result(simple(), 0), loop.result(simple(), 1)).cost
    assert both.flops["elementwise-f32"] == 4 * (2 * 3 + 3)
    assert both.launches == 4 * 2
    inner = loop.body_of([graph.sqrt(CARRY)], 1, 0, 0)
    outer = loop.body_of([loop.result(loop.Group((CARRY,), 7, False, inner), 0)], 1, 0, 0)
    deep = program(loop.result(loop.Group((X,), 5, False, outer), 0)).cost
    assert deep.flops["elementwise-f32"] == 5 * 7 * 3


# ---------------------------------------------------------------- what is refused


def body(*results: Node, carries: int = 1, items: int = 0, shared: int = 0) -> loop.Body:
    return loop.body_of(results, carries, items, shared)


def looped(*src: Node, of: loop.Body, count: Any = 4, reverse: Any = 0, which: Any = 0) -> Node:
    value = of.results[0]
    return graph.make(Op.LOOP, src, (count, reverse, of, which), value.dtype, value.shape)


def nest(depth: int) -> loop.Body:
    inner = body(graph.sqrt(CARRY))
    for _ in range(depth - 1):
        inner = body(loop.result(loop.Group((CARRY,), 1, False, inner), 0))
    return inner


SQRT = body(graph.sqrt(CARRY))
TALL = loop.placeholder("carry", 0, F32, (2,))
WHOLE = loop.placeholder("carry", 0, dtypes.int32, (3,))
ILLEGAL: list[tuple[str, Callable[[], Any]]] = [
    ("LOOP_OPEN", lambda: body(graph.add(CARRY, X))),
    ("LOOP_OPEN", lambda: body(graph.add(CARRY, ITEM))),
    ("LOOP_OPEN", lambda: body(graph.input_("hole", "0", F32, (3,)))),
    ("LOOP_OPEN", lambda: body(graph.input_("step", "step", dtypes.uint32, ()))),
    ("LOOP_OPEN", lambda: body(loop.placeholder("carry", 1, F32, (3,)))),
    ("GRAPH_ILLEGAL", lambda: body(CARRY, TALL, carries=2)),
    ("GRAPH_ILLEGAL", lambda: body(carries=0)),
    ("GRAPH_ILLEGAL", lambda: body(CARRY, carries=2)),
    ("GRAPH_ILLEGAL", lambda: body(CARRY, items=limits.MAX_SOURCES + 1)),
    ("LOOP_DEPTH", lambda: nest(limits.MAX_LOOP_DEPTH + 1)),
    ("GRAPH_ILLEGAL", lambda: graph.input_("carry", "01", F32, (3,))),
    ("GRAPH_ILLEGAL", lambda: graph.input_("carry", "-1", F32, (3,))),
    ("GRAPH_ILLEGAL", lambda: graph.input_("shared", str(limits.MAX_SOURCES), F32, (3,))),
    ("LOOP_LIMIT", lambda: looped(X, of=SQRT, count=limits.MAX_LOOP_TURNS + 1)),
    ("LOOP_LIMIT", lambda: looped(X, of=SQRT, count=-1)),
    ("LOOP_LIMIT", lambda: looped(X, of=SQRT, count=True)),
    ("LOOP_LIMIT", lambda: looped(X, of=nest(4), count=limits.MAX_LOOP_TURNS)),
    ("GRAPH_ILLEGAL", lambda: looped(X, of=SQRT, reverse=2)),
    ("GRAPH_ILLEGAL", lambda: looped(X, of=SQRT, which=1)),
    ("GRAPH_ILLEGAL", lambda: looped(X, of=SQRT, which=-1)),
    ("GRAPH_ILLEGAL", lambda: looped(X, X, of=SQRT)),
    ("GRAPH_ILLEGAL", lambda: looped(XS, of=SQRT)),
    ("GRAPH_ILLEGAL", lambda: looped(X, of=body(graph.cast(CARRY, dtypes.int32)))),
    ("GRAPH_ILLEGAL", lambda: looped(X, of=body(graph.slice_(CARRY, [(0, 1, 2)])))),
    ("GRAPH_ILLEGAL", lambda: looped(X, X, of=body(graph.add(CARRY, ITEM), items=1))),
    ("GRAPH_ILLEGAL", lambda: looped(X, XS, of=body(graph.add(CARRY, ITEM), items=1), count=3)),
    ("GRAPH_ILLEGAL", lambda: looped(X, XS, of=body(graph.add(CARRY, SHARED), shared=1))),
    ("GRAPH_ILLEGAL", lambda: graph.make(Op.LOOP, (X,), (4, 0, SQRT), F32, (3,))),
    ("GRAPH_ILLEGAL", lambda: graph.make(Op.LOOP, (X,), (4, 0, "body", 0), F32, (3,))),
    ("GRAPH_ILLEGAL", lambda: graph.make(Op.LOOP, (X,), (4, 0, SQRT, 0), F32, (4,))),
    ("GRAPH_ILLEGAL", lambda: graph.make(Op.LOOP, (X,), (4, 0, SQRT, 0), dtypes.int32, (3,))),
    ("GRAPH_ILLEGAL", lambda: loop.result(loop.Group((X,), 4, False, SQRT), 1)),
]


@pytest.mark.parametrize(("code", "make"), ILLEGAL)
def test_the_specification_refuses(code: str, make: Callable[[], Any]) -> None:
    with pytest.raises(GraphError) as refused:
        make()
    assert refused.value.code == code


def test_a_program_has_no_placeholders_outside_of_bodies() -> None:
    for leaf in (CARRY, ITEM, SHARED, graph.input_("hole", "0", F32, (3,))):
        with pytest.raises(GraphError, match="not a declared tensor"):
            program(leaf)


def test_loops_beside_each_other_are_limited_together() -> None:
    count = limits.MAX_LOOP_WORK // SQRT.work // 2
    last: Node = X
    for _ in range(3):
        last = looped(last, of=SQRT, count=min(count, limits.MAX_LOOP_TURNS))
    assert 3 * min(count, limits.MAX_LOOP_TURNS) * SQRT.work > limits.MAX_LOOP_WORK
    with pytest.raises(GraphError) as refused:
        program(last)
    assert refused.value.code == "PROGRAM_LIMIT"


def test_a_small_text_cannot_stand_for_a_huge_graph() -> None:
    """Loops of loops share bodies: what counts is how often they would be compiled."""
    inner = body(graph.sqrt(CARRY))
    with pytest.raises(GraphError) as refused:
        for _ in range(limits.MAX_LOOP_DEPTH):
            last = CARRY
            for _ in range(60):
                last = loop.result(loop.Group((last,), 1, False, inner), 0)
            inner = body(last)
    assert refused.value.code == "LOOP_LIMIT"


# ---------------------------------------------------------------- bytes of strangers


class Hostile:
    """Writes the bytes of a program with one loop, in which a test may lie."""

    def __init__(self) -> None:
        self.writer = Writer()
        self.writer.raw(b"FLOPPROG\x01")
        self.writer.text(PROFILE)
        for names in ([], [], ["x"]):
            self.writer.natural(len(names))
            for name in names:
                self.writer.text(name)
                self.form()

    def form(self) -> None:
        for number in (F32.code, 1, 3):
            self.writer.natural(number)

    def leaf(self, kind: str, name: str) -> None:
        self.writer.natural(int(Op.INPUT))
        self.form()
        self.writer.natural(0)
        self.writer.argument((kind, name))

    def sqrt(self, source: int) -> None:
        self.writer.natural(int(Op.SQRT))
        self.form()
        self.writer.natural(1)
        self.writer.natural(source)
        self.writer.argument(())

    def loop(self, *numbers: int) -> None:
        """A LOOP node over node 0: turns, direction, result, body (0: it follows)."""
        self.writer.natural(int(Op.LOOP))
        self.form()
        for number in (1, 0, *numbers):
            self.writer.natural(number)

    def numbers(self, *numbers: int) -> None:
        for number in numbers:
            self.writer.natural(number)

    def body(self, nodes: int = 2) -> None:
        """One carry, the nodes carry and its root, one result."""
        self.numbers(1, 0, 0, nodes)
        self.leaf("carry", "0")
        self.sqrt(0)
        self.numbers(1, 1)

    def output(self, node: int) -> bytes:
        self.numbers(1)
        self.writer.text("y")
        self.numbers(node)
        return self.writer.finish()


def fine() -> bytes:
    made = Hostile()
    made.numbers(2)
    made.leaf("input", "x")
    made.loop(4, 0, 0, 0)
    made.body()
    return made.output(1)


def test_the_forger_can_write_a_legal_program() -> None:
    assert Program.from_bytes(fine()).to_bytes() == fine()


def forged(code: str, build: Callable[[Hostile], int]) -> None:
    made = Hostile()
    data = made.output(build(made))
    with pytest.raises(GraphError) as refused:
        Program.from_bytes(data)
    assert refused.value.code == code, refused.value


def test_enormous_counts_are_refused_before_anything_is_built() -> None:
    def build(made: Hostile) -> int:
        made.numbers(2)
        made.leaf("input", "x")
        made.loop(limits.MAX_LOOP_TURNS + 1, 0, 0, 0)
        made.body()
        return 1

    forged("PROGRAM_LIMIT", build)


def test_a_body_is_written_where_it_is_first_used_and_only_there() -> None:
    def build(made: Hostile) -> int:
        made.numbers(3)
        made.leaf("input", "x")
        made.loop(4, 0, 0, 0)
        made.body()
        made.writer.natural(int(Op.LOOP))
        made.form()
        made.numbers(1, 1, 5, 0, 0, 0)
        made.body()  # again, in place of its number 1
        return 2

    forged("PROGRAM_NOT_CANONICAL", build)


def test_a_body_cannot_contain_itself_or_one_that_is_not_there() -> None:
    def build(made: Hostile) -> int:
        made.numbers(2)
        made.leaf("input", "x")
        made.loop(4, 0, 0, 0)
        made.numbers(1, 0, 0, 2)
        made.leaf("carry", "0")
        made.loop(4, 0, 0, 1)  # the first body, which is this one
        made.numbers(1, 1)
        return 1

    forged("PROGRAM_LIMIT", build)


def test_nesting_is_bounded_while_reading() -> None:
    def build(made: Hostile) -> int:
        made.numbers(2)
        made.leaf("input", "x")
        for _ in range(limits.MAX_LOOP_DEPTH + 1):
            made.loop(1, 0, 0, 0)
            made.numbers(1, 0, 0, 2)
            made.leaf("carry", "0")
        made.sqrt(0)
        for _ in range(limits.MAX_LOOP_DEPTH + 1):
            made.numbers(1, 1)
        return 1

    forged("LOOP_DEPTH", build)


def test_an_open_body_and_a_wrong_carry_are_refused() -> None:
    def opened(made: Hostile) -> int:
        made.numbers(2)
        made.leaf("input", "x")
        made.loop(4, 0, 0, 0)
        made.numbers(1, 0, 0, 2)
        made.leaf("input", "x")
        made.sqrt(0)
        made.numbers(1, 1)
        return 1

    def mistyped(made: Hostile) -> int:
        made.numbers(2)
        made.leaf("input", "x")
        made.loop(4, 0, 0, 0)
        made.numbers(1, 0, 0, 2)
        made.leaf("carry", "0")
        made.writer.natural(int(Op.CAST))
        made.numbers(dtypes.int32.code, 1, 3, 1, 0)
        made.writer.argument(("numeric",))
        made.numbers(1, 1)
        return 1

    def uncontracted(made: Hostile) -> int:
        made.numbers(2)
        made.leaf("input", "x")
        made.loop(4, 0, 0, 0)
        made.numbers(1, 0, 0, 3)
        made.leaf("carry", "0")
        for op in (Op.MUL, Op.ADD):
            made.writer.natural(int(op))
            made.form()
            made.numbers(2, 0 if op is Op.MUL else 1, 0)
            made.writer.argument(())
        made.numbers(1, 2)
        return 1

    forged("LOOP_OPEN", opened)
    forged("GRAPH_ILLEGAL", mistyped)
    forged("PROGRAM_NOT_CANONICAL", uncontracted)


def test_nodes_of_all_bodies_count_together() -> None:
    def build(made: Hostile) -> int:
        made.numbers(2)
        made.leaf("input", "x")
        made.loop(4, 0, 0, 0)
        made.body(nodes=limits.MAX_NODES - 1)
        return 1

    forged("PROGRAM_LIMIT", build)


def test_every_cut_and_every_flipped_bit_is_an_error_or_a_program() -> None:
    data = nested().to_bytes()
    rng = np.random.default_rng(0)
    for length in rng.integers(0, len(data), 40):
        with pytest.raises(GraphError):
            Program.from_bytes(data[:length])
    for _ in range(300):
        flipped = bytearray(data)
        flipped[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        try:
            made = Program.from_bytes(bytes(flipped))
        except GraphError:
            continue
        assert made.to_bytes() == bytes(flipped)
        assert made.cost.total_flops >= 0


def test_the_reference_runs_a_stranger_who_carries_what_nobody_reads() -> None:
    dead = loop.placeholder("carry", 1, F32, (3,))
    group = loop.Group((X, X), 3, False, body(graph.add(CARRY, CARRY), graph.sqrt(dead), carries=2))
    node = loop.result(group, 0)
    made = Program.from_bytes(program(node).to_bytes())
    (value,) = reference.evaluate(made.output_nodes, {X: np.ones(3, np.float32)})
    assert value.tolist() == [8.0] * 3


def test_a_loop_without_sources_is_legal() -> None:
    (ones,) = fori_loop(3, lambda i, c: (c[0] + 1.0,), [Tensor(np.float32(0), device="reference")])
    assert ones.item() == 3.0
    alone = loop.body_of([graph.const(2, F32, (3,))], 0, 0, 0)
    node = loop.result(loop.Group((), 4, False, alone), 0)
    made = Program.from_bytes(program(node).to_bytes())
    (value,) = reference.evaluate(made.output_nodes, {})
    assert value.shape == (4, 3) and (value == 2).all()
