"""Honest differences in tolerance mode, for the profiles of ``flopmarket/trust/tolerance.py``.

``python -m tests.tools.calibrate_tolerance`` builds exact mode's kernels with relaxed compilers
(``tests/tools/relaxed.py``) on an OpenCL device, runs single operations of every kind, and prints
quantiles of what differs from the reference: the largest over compilers, kinds of data and seeds.
``--steps`` goes on with training steps: whether fusion changes bits on these devices, what leaving
it out costs, and what :func:`flopmarket.jobs.judging_steps.judge_step` says of honest values.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from flopmarket.engine import dtypes, graph
from flopmarket.engine.dtypes import DType
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.runtime import devices
from flopmarket.engine.runtime.opencl import Device
from flopmarket.jobs.judging_steps import (
    StepInputs,
    claimed_operations,
    judge_step,
    kind_of,
    magnitude_of,
    terms_of,
)
from flopmarket.jobs.operations import Operation, Part, StepPlan, blocks
from flopmarket.jobs.order import rows_of_step
from flopmarket.jobs.tracing import Evaluate, by_reference
from flopmarket.trust.tolerance import (
    FORMATS,
    Array,
    Float64s,
    OpKind,
    product_residuals,
    quantiles_milli,
    units_of,
)
from tests.tools.relaxed import VARIANTS, by_operations, opener, relaxed_device
from tests.unit.jobs.disputes import conv_job, mlp_job

SEEDS = 3
TERMS = (64, 256, 1024, 4096, 16_384, 65_536)
ELEMENTS = 1 << 14

Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]

DATA: dict[str, Draw] = {
    "signed": lambda rng, shape: rng.standard_normal(shape),
    "positive": lambda rng, shape: rng.random(shape),
    "wide": lambda rng, shape: rng.standard_normal(shape) * 2.0 ** rng.integers(-40, 40, shape),
}


@dataclass(frozen=True, slots=True)
class Case:
    """An operation on leaves of its own."""

    name: str
    node: Node

    @property
    def operation(self) -> Operation:
        """As a plan has it."""
        node = self.node
        sources = tuple(range(len(node.src)))
        return Operation(Part.NODE, node, node.dtype, node.shape, sources, blocks(node.elements))

    def operands(self, draw: Draw, seed: int) -> list[Array]:
        """Values of the leaves."""
        rng = np.random.default_rng(seed)
        found = [draw(rng, leaf.shape).astype(leaf.dtype.numpy) for leaf in self.node.src]
        return [np.where(value == 0, value.dtype.type(1), value) for value in found]


def cases(dtype: DType = dtypes.float32, terms: Sequence[int] = TERMS) -> Iterator[Case]:
    """One operation of every kind, sums and products of several lengths."""

    def leaf(at: int, *shape: int) -> Node:
        return graph.input_("input", f"x{at}", dtype, shape)

    pair = leaf(0, ELEMENTS), leaf(1, ELEMENTS)
    yield Case("ADD", graph.add(*pair))
    yield Case("MUL", graph.mul(*pair))
    yield Case("FMA", graph.fma(*pair, leaf(2, ELEMENTS)))
    yield Case("DIV", graph.div(*pair))
    yield Case("SQRT", graph.sqrt(pair[0]))
    for count in terms:
        rows = max(16, min(1024, (1 << 20) // count))
        many = leaf(0, rows, count), leaf(1, rows, count)
        yield Case(f"sum of {count}", graph.reduce("sum", many[0], (1,)))
        yield Case(f"sumprod of {count}", graph.reduce("sumprod", many[0], (1,), many[1]))
        side = 48 if count <= 4096 else 16
        a, b = leaf(0, 1, side, count), leaf(1, 1, count, side + 16)
        yield Case(f"DOT of {count}", graph.dot(a, b))


def units(case: Case, sources: list[Array], made: Array, law: Array) -> Float64s:
    """Differences from FX1 in units of the operation's magnitude."""
    scale = magnitude_of(case.node, sources).astype(np.float64).ravel()
    with np.errstate(all="ignore"):
        differences = np.abs(made.astype(np.float64) - law.astype(np.float64)).ravel()
    finite = np.isfinite(differences) & np.isfinite(scale)
    return units_of(differences[finite], scale[finite], FORMATS[case.node.dtype.name])


class Table:
    """The largest quantiles of each kind and length, and who had them."""

    def __init__(self) -> None:
        self._most: dict[tuple[OpKind, int], list[int]] = {}
        self._widest: dict[tuple[OpKind, int], tuple[int, str]] = {}

    def note(self, kind: OpKind, terms: int, found: Float64s, who: str) -> None:
        """Take one result in."""
        quantiles = quantiles_milli(found)
        key = kind, terms
        before = self._most.setdefault(key, [0, 0, 0, 0])
        self._most[key] = [max(pair) for pair in zip(before, quantiles, strict=True)]
        self._widest[key] = max(self._widest.get(key, (0, "")), (quantiles[-1], who))

    def lines(self) -> Iterator[str]:
        """A line for every kind and length."""
        for (kind, terms), most in sorted(self._most.items()):
            widest = self._widest[kind, terms][1]
            yield f"{kind} {terms}: {tuple(most)} widest {widest}\n"


def calibrate(
    evaluators: Mapping[str, Evaluate], some: Iterable[Case], seeds: Sequence[int], table: Table
) -> Iterator[str]:
    """Run the cases on everything that is given, the reference being the law; what failed."""
    for case in some:
        kind, terms = kind_of(case.node), terms_of(case.node)
        is_product = case.name.startswith("DOT") and case.node.dtype is dtypes.float32
        for (name, draw), seed in product(DATA.items(), seeds):
            sources = case.operands(draw, seed)
            law = by_reference(0, 0, case.operation, sources)
            if is_product:
                _note_product(table, terms, sources, law, seed, f"reference, {name}")
            for who, evaluate in evaluators.items():
                who = f"{case.name} by {who}, {name}"
                try:
                    made = evaluate(0, 0, case.operation, sources)
                except EngineError as error:  # a compiler may refuse a kernel, others still count
                    yield f"{who}: {error}"[:200] + "\n"
                    continue
                table.note(kind, terms, units(case, sources, made, law), who)
                if is_product:
                    _note_product(table, terms, sources, made, seed, who)


def _note_product(
    table: Table, terms: int, sources: list[Array], made: Array, seed: int, who: str
) -> None:
    residuals, scale, _, _ = product_residuals(sources[0][0], sources[1][0], made[0], seed, 8)
    found = units_of(residuals.ravel(), scale.ravel(), FORMATS["float32"])
    table.note(OpKind.PRODUCT, terms, found, who)


def steps_on(device: Device, name: str) -> Iterator[str]:
    """Honest steps of two training jobs on a relaxed device."""
    for title, made in (("mlp", mlp_job), ("conv", conv_job)):
        job = made()
        spec = job.spec(buyer="b", max_price_nano=1, deadline_us=2, nonce=bytes(16))
        ends, seconds = [], []
        for fusion in (True, False):
            session = opener(device, fusion=fusion)(job.program)
            session.load(job.frozen, job.state)
            began = time.monotonic()
            for step in range(4):
                rows = rows_of_step(spec.data_order, spec.seed, step)
                given = {key: value[rows] for key, value in job.data.items()}
                outputs = session.step(given, seed=spec.seed, step=step)
                if step == 0:
                    ends.append({**session.read_state(), **outputs})
            seconds.append(time.monotonic() - began)
            session.close()
        plan, inputs = StepPlan(job.program), StepInputs(spec, 0, job.frozen, job.data, job.state)
        evaluate = by_operations(device)
        values = claimed_values(plan, inputs, evaluate)
        evaluate.close()
        claimed = {at: values[at] for at in claimed_operations(plan)}
        found = judge_step(plan, inputs, claimed, seed=1)
        ends.append({**found.state, **found.outputs})
        equal = [
            all(ends[0][key].tobytes() == end[key].tobytes() for key in ends[0])
            for end in ends[1:]
            if end
        ]
        law = claimed_values(plan, inputs, by_reference)
        differ = sum(law[at].tobytes() != claimed[at].tobytes() for at in claimed)
        yield (
            f"{title} on {name}: {found.opinion} {found.detail[:200]}; {differ} of {len(claimed)} "
            f"values differ from FX1; bits of fused steps are those without fusion, and those of "
            f"single operations: {equal}; 4 steps {seconds[0]:.4f} s fused, {seconds[1]:.4f} not\n"
        )


def claimed_values(plan: StepPlan, inputs: StepInputs, evaluate: Evaluate) -> dict[int, Array]:
    """Every value of one step by some evaluator."""
    values: dict[int, Array] = {}
    for at, op in enumerate(plan.operations):
        sources = [values[source] for source in op.sources]
        if op.node is not None and op.node.op is Op.INPUT:
            sources = [inputs.leaf(op.node)]
        values[at] = evaluate(inputs.step, at, op, sources)
    return values


def main() -> None:
    """Print the table of this machine's device."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device")
    parser.add_argument("--steps", action="store_true")
    parser.add_argument("--terms", type=int, default=TERMS[-1], help="of sums, at most")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    arguments = parser.parse_args()
    info = devices.find(arguments.device)
    sys.stdout.write(f"{info.name}, {info.driver_version}\n")
    opened = {variant.name: relaxed_device(info, variant) for variant in VARIANTS}
    evaluators = {name: by_operations(device) for name, device in opened.items()}
    table = Table()
    some = cases(terms=[count for count in TERMS if count <= arguments.terms])
    for line in calibrate(evaluators, some, range(arguments.seeds), table):
        sys.stdout.write(line)
    sys.stdout.write("".join(table.lines()))
    sys.stdout.flush()
    for name, device in opened.items():
        evaluators[name].close()
        if arguments.steps:
            for line in steps_on(device, name):
                sys.stdout.write(line)
                sys.stdout.flush()
        device.close()


if __name__ == "__main__":
    main()
