"""One step of a job, judged operation by operation from the values that its producer claims.

For tolerance mode: the producer hands over the value of every operation whose result may depend on
how a device rounds, compares or flushes floats (:func:`claimed_operations`). Each is recomputed
under FX1 from the producer's own operands and compared by :mod:`flopmarket.trust.tolerance`; all
other values follow from these by exact rules. What comes out is the worst opinion with its place,
and the state and outputs that the claimed values lead to: whether they are the committed ones is
the caller's question, asked by roots.

Values come from strangers. A missing one, one of another form, a NaN or an infinity is an opinion
and never an exception; time and memory are those of one un-fused step, bounded by
:func:`check_program` before a job is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from flopmarket.engine import dtypes, graph, loop
from flopmarket.engine.exact import DOT_CHUNK, REDUCE_BLOCK, REDUCE_LANES
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.program import Program
from flopmarket.engine.runtime.session import seed_words
from flopmarket.errors import InvalidInput, LimitExceeded
from flopmarket.jobs.bundle import Array, Tensors
from flopmarket.jobs.operations import Operation, Part, StepPlan
from flopmarket.jobs.order import rows_of_step
from flopmarket.jobs.spec import JobSpec
from flopmarket.jobs.tracing import Evaluate, by_reference
from flopmarket.limits import (
    MAX_JUDGED_PRODUCT_FLOPS,
    MAX_TOLERANCE_STEP_BYTES,
    MAX_TOLERANCE_TERMS,
    MAX_TOLERANCE_VALUES,
)
from flopmarket.trust.tolerance import (
    FORMATS,
    Expected,
    Judgement,
    Opinion,
    OpKind,
    judge,
    judge_equal,
    judge_product,
    worst,
)

_FLOAT_SENSITIVE = frozenset(
    {Op.ADD, Op.MUL, Op.FMA, Op.DIV, Op.SQRT, Op.MAX, Op.CMP, Op.REDUCE, Op.DOT}
)
_FLUSHED = (dtypes.float32, dtypes.float64, dtypes.bfloat16)
"""Types whose subnormals a device may take for zero; float16 is handled by integers."""

_ROUNDED = frozenset({Op.ADD, Op.MUL, Op.CAST})
_DIVIDED_ROUNDINGS = 6.0
"""A quotient or root within 3 units in the last place, of up to two relative units each."""


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What everybody agrees on before a step. ``step`` is the job's number of it."""

    spec: JobSpec
    step: int
    frozen: Tensors
    data: Tensors
    state: Tensors

    def leaf(self, node: Node) -> Array:
        """The value of an INPUT of the step."""
        kind, name = node.arg
        if kind == "seed":
            return seed_words(self.spec.seed)
        if kind == "step":
            return np.asarray(self.step, dtype=np.uint32)
        if kind == "input":
            return self.data[name][rows_of_step(self.spec.data_order, self.spec.seed, self.step)]
        return self.state[name] if kind == "state" else self.frozen[name]


@dataclass(frozen=True, slots=True)
class StepJudgement:
    """The worst that was found in a step, and where the claimed values lead.

    ``operation`` is the worst one's position in the plan, -1 if none was judged; ``detail`` says it
    in words. After a fault the rest of the step is not looked at, and the tensors are empty.
    """

    opinion: Opinion
    operation: int
    judgement: Judgement
    detail: str
    judged: int
    state: Tensors
    outputs: Tensors


def claimed_operations(plan: StepPlan) -> tuple[int, ...]:
    """Positions of the operations whose values a producer hands over, ascending."""
    return tuple(at for at, op in enumerate(plan.operations) if is_claimed(op.node))


def is_claimed(node: Node | None) -> bool:
    """Whether honest devices may disagree on this operation's value, given its operands."""
    if node is None or not any(source.dtype.is_float for source in node.src):
        return False
    if node.op is Op.CAST:
        return bool(node.arg != ("bitcast",))
    adds = node.op is Op.SCATTER and bool(node.arg == ("add",))
    return adds or node.op in _FLOAT_SENSITIVE


def values_of_step(
    plan: StepPlan, inputs: StepInputs, evaluate: Evaluate
) -> tuple[dict[int, Array], dict[Part, Tensors]]:
    """A producer's side: the claimed values of a step, and the state and outputs it ends with.

    ``evaluate`` is asked for claimed operations alone; all others follow from these by the
    reference, as they do for the judge.
    """
    values: dict[int, Array] = {}
    claimed: dict[int, Array] = {}
    ends: dict[Part, Tensors] = {Part.STATE: {}, Part.OUTPUT: {}}
    for at, op in enumerate(plan.operations):
        sources = [values[source] for source in op.sources]
        if op.node is not None and op.node.op is Op.INPUT:
            sources = [inputs.leaf(op.node)]
        if is_claimed(op.node):
            claimed[at] = value = evaluate(inputs.step, at, op, sources)
        else:
            value = by_reference(inputs.step, at, op, sources)
        values[at] = value
        if op.committed:
            ends[op.part][op.name] = value
        for used in {at, *op.sources}:
            if plan.last_use[used] <= at:
                values.pop(used, None)
    return claimed, ends


def check_program(program: Program) -> int:
    """Bytes of the values of one step, refused where tolerance mode cannot check them.

    Read from the graph without spelling loops out, so a quote can ask. Raises LimitExceeded
    ``TOLERANCE_TOO_LARGE`` (bytes, or number of values) and InvalidInput ``TOLERANCE_TERMS``.
    """
    size, count = _claimed(program.nodes)
    if size > MAX_TOLERANCE_STEP_BYTES:
        raise LimitExceeded(
            f"the values of one step are {size} bytes, in tolerance mode at most "
            f"{MAX_TOLERANCE_STEP_BYTES}",
            code="TOLERANCE_TOO_LARGE",
            hint="a smaller batch or model, or exact mode",
        )
    if count > MAX_TOLERANCE_VALUES:
        raise LimitExceeded(
            f"a step has {count} values that rounding decides, in tolerance mode at most "
            f"{MAX_TOLERANCE_VALUES}",
            code="TOLERANCE_TOO_LARGE",
            hint="fewer turns of loops, or exact mode",
        )
    return size


def _claimed(nodes: Sequence[Node]) -> tuple[int, int]:
    """Bytes and number of claimed values below ``nodes``. Loops nest at most some levels deep."""
    size = count = 0
    for node in nodes:
        if is_claimed(node):
            size, count = size + node.size_bytes, count + 1
            if node.op is Op.DOT and node.dtype is dtypes.float64:
                _check_double(node)
            if terms_of(node) > MAX_TOLERANCE_TERMS:
                raise InvalidInput(
                    f"{node!r} has {terms_of(node)} terms, in tolerance mode at most "
                    f"{MAX_TOLERANCE_TERMS}",
                    code="TOLERANCE_TERMS",
                    hint="exact mode has no such limit",
                )
    for group in loop.groups(nodes):
        inner_size, inner_count = _claimed(group.body.nodes)
        size, count = size + group.count * inner_size, count + group.count * inner_count
    return size, count


def _check_double(node: Node) -> None:
    """float64 has no wider type that vectors could be multiplied in: such a product is computed."""
    flops = 2 * node.elements * node.src[0].shape[2]
    if flops > MAX_JUDGED_PRODUCT_FLOPS:
        raise LimitExceeded(
            f"{node!r} takes {flops} operations in float64, in tolerance mode at most "
            f"{MAX_JUDGED_PRODUCT_FLOPS}",
            code="TOLERANCE_TOO_LARGE",
            hint="products in float32, or exact mode",
        )


def judge_step(
    plan: StepPlan,
    inputs: StepInputs,
    claimed: Mapping[int, Array],
    *,
    seed: int,
    evaluate: Evaluate = by_reference,
    product_flops: int = MAX_JUDGED_PRODUCT_FLOPS,
) -> StepJudgement:
    """Judge the values that a producer claims for one step.

    ``claimed``: arrays by position in ``plan``. ``seed`` (of the Gaussian vectors) is drawn after
    the producer committed itself. ``evaluate`` computes FX1: the reference, or an exact device.
    A step's products are computed in full up to ``product_flops`` operations, each up to its part;
    larger ones are checked by vectors, and by as many drawn rows as their part pays for.
    """
    refused = _refused(plan, claimed)
    if refused is not None:
        return refused
    found = Judgement(Opinion.INSIDE)
    place, judged = -1, 0
    values: dict[int, Array] = {}
    results: dict[Part, Tensors] = {Part.STATE: {}, Part.OUTPUT: {}}
    products = sum(op.node is not None and op.node.op is Op.DOT for op in plan.operations)
    check = _Check(evaluate, inputs.step, seed, product_flops // max(1, products))
    for at, op in enumerate(plan.operations):
        sources = [values[source] for source in op.sources]
        if at in claimed:
            value = dtypes.canonical(claimed[at])
            one = check.operation(at, op, sources, value)
            judged += 1
            if place < 0 or worst((found, one)) is not found:
                found, place = one, at
            if found.opinion is Opinion.FAULT:
                return _said(plan, place, found, judged, {}, {})
        elif op.node is not None and op.node.op is Op.INPUT:
            value = dtypes.canonical(inputs.leaf(op.node))
        else:
            value = by_reference(inputs.step, at, op, sources)
        if op.committed:
            results[op.part][op.name] = value
        values[at] = value
        for used in {at, *op.sources}:
            if plan.last_use[used] <= at:
                values.pop(used, None)
    return _said(plan, place, found, judged, results[Part.STATE], results[Part.OUTPUT])


def _said(
    plan: StepPlan, at: int, found: Judgement, judged: int, state: Tensors, outputs: Tensors
) -> StepJudgement:
    detail = ""
    if at >= 0 and found.opinion is not Opinion.INSIDE:
        detail = (
            f"operation {at} ({plan.operations[at].describe()}), element {found.element}: "
            f"{found.seen!r}, under FX1 {found.expected!r}; "
            f"{found.of_bound_ppm / 10_000:.2f} % of the bound, quantiles {found.quantiles_milli}"
        )
    return StepJudgement(found.opinion, at, found, detail, judged, state, outputs)


def _refused(plan: StepPlan, claimed: Mapping[int, Array]) -> StepJudgement | None:
    """A fault where the values are not those of the plan's operations."""
    wanted = claimed_operations(plan)
    fault = Judgement(Opinion.FAULT, (0, 0, 0, 0), 10**9)
    odd = sorted(set(wanted) ^ set(claimed))
    if odd:
        said = f"{len(odd)} values are missing or were not asked for, operation {odd[0]} the first"
        return StepJudgement(Opinion.FAULT, odd[0], fault, said, 0, {}, {})
    for at in wanted:
        op, value = plan.operations[at], claimed[at]
        if value.shape != op.shape or value.dtype != op.dtype.numpy:
            said = f"operation {at} ({op.describe()}) was given as {value.dtype}{list(value.shape)}"
            return StepJudgement(Opinion.FAULT, at, fault, said, 0, {}, {})
    return None


# ---------------------------------------------------------------- one operation


@dataclass(frozen=True, slots=True)
class _Check:
    """Recomputes single operations; ``seed`` decides vectors and sampled rows."""

    evaluate: Evaluate
    step: int
    seed: int
    product_flops: int

    def operation(self, at: int, op: Operation, sources: list[Array], value: Array) -> Judgement:
        """One claimed value against FX1 on the claimed operands."""
        node = op.node
        assert node is not None
        if node.op is Op.DOT and node.dtype is dtypes.float32:
            flops = 2 * node.elements * node.src[0].shape[2]
            if flops > self.product_flops:
                return self._product(at, op, node, sources, value)
        return self._whole(at, op, sources, value)

    def _whole(self, at: int, op: Operation, sources: list[Array], value: Array) -> Judgement:
        values = [self.evaluate(self.step, at, op, sources)]
        flushed = _flushed(sources)
        if flushed is not None:
            values.append(self.evaluate(self.step, at, op, flushed))
        return _compare(op.node, sources, value, values)

    def _product(
        self, at: int, op: Operation, node: Node, sources: list[Array], value: Array
    ) -> Judgement:
        """Freivalds over all of it, and as many drawn rows as may be computed, in full."""
        a, b = (source.astype(np.float32) for source in sources[:2])
        batch, rows, terms = a.shape
        if len(sources) == 3:
            counts = np.clip(sources[2], 0, terms)[:, :, None]
            a = np.where(np.arange(terms) < counts, a, np.float32(0))
        seeds = np.random.SeedSequence([self.seed, self.step, at])
        drawn = np.random.Generator(np.random.Philox(seeds))
        found = []
        share = max(1, self.product_flops // (2 * batch * terms * b.shape[2]))
        for matrix in range(batch):
            one = judge_product(
                a[matrix],
                b[matrix],
                value[matrix],
                int(drawn.integers(2**63)),
                roundings=roundings_of(node),
            )
            offset = matrix * rows * b.shape[2]
            found.append(replace(one, element=one.element + offset))
            if not batch > share * rows:
                chosen = np.sort(drawn.choice(rows, size=min(rows, share), replace=False))
                found.append(self._rows(at, op, sources, value, matrix, chosen))
        return worst(found)

    def _rows(
        self, at: int, op: Operation, sources: list[Array], value: Array, matrix: int, rows: Array
    ) -> Judgement:
        node = op.node
        assert node is not None
        one = slice(matrix, matrix + 1)
        cut = [sources[0][one, rows], sources[1][one]]
        cut += [source[one, rows] for source in sources[2:]]
        small = replace(op, node=_resized(node, cut), shape=(1, len(rows), node.shape[2]))
        found = self._whole(at, small, cut, np.ascontiguousarray(value[one, rows]))
        row, column = divmod(max(found.element, 0), node.shape[2])
        element = (matrix * node.shape[1] + int(rows[row])) * node.shape[2] + column
        return replace(found, element=element)


def _resized(node: Node, sources: Sequence[Array]) -> Node:
    """The node's product on operands of other shapes."""
    leaves = [
        graph.input_("buffer", str(k), source.dtype, array.shape)
        for k, (source, array) in enumerate(zip(node.src, sources, strict=True))
    ]
    return graph.dot(*leaves)


def _flushed(sources: Sequence[Array]) -> list[Array] | None:
    """The operands with subnormals taken for zero, None where there are none."""
    found, changed = [], False
    for source in sources:
        dtype = dtypes.from_numpy(source.dtype)
        if dtype in _FLUSHED:
            least = source.dtype.type(FORMATS[dtype.name].least_normal)
            small = (np.abs(source) < least) & (source != 0)
            if small.any():
                source, changed = np.where(small, source.dtype.type(0), source), True
        found.append(source)
    return found if changed else None


def _compare(
    node: Node | None, sources: list[Array], value: Array, values: Sequence[Array]
) -> Judgement:
    assert node is not None
    kind = kind_of(node)
    if kind is OpKind.MOVE:
        return judge_equal(value, values)
    expected = Expected(
        kind,
        FORMATS[node.dtype.name],
        values,
        magnitude_of(node, sources).reshape(node.shape),
        terms_of(node),
        roundings_of(node),
    )
    return judge(value, expected)


def kind_of(node: Node) -> OpKind:
    """How far honest devices may differ in a claimed operation."""
    if not node.dtype.is_float or node.op is Op.MAX:
        return OpKind.MOVE
    if node.op is Op.REDUCE:
        if node.arg[0] in ("max", "min"):
            return OpKind.MOVE
        return OpKind.DOT if node.arg[0] == "sumprod" else OpKind.SUM
    if node.op in _ROUNDED:
        return OpKind.ROUNDED
    if node.op is Op.FMA:
        return OpKind.FUSED
    if node.op is Op.DOT:
        return OpKind.DOT
    return OpKind.SUM if node.op is Op.SCATTER else OpKind.DIVIDED


def terms_of(node: Node) -> int:
    """Terms that one result of a claimed operation may be made of."""
    if node.op is Op.DOT:
        return max(1, int(node.src[0].shape[2]))
    if node.op is Op.REDUCE:
        return max(1, int(prod(node.src[0].shape[axis] for axis in node.arg[1])))
    return max(1, node.src[1].elements + 1) if node.op is Op.SCATTER else 1


def roundings_of(node: Node) -> float:
    """Roundings that one term goes through in the prescribed order, at most."""
    terms = terms_of(node)
    if node.op is Op.DOT:
        return float(min(terms, DOT_CHUNK) + -(-terms // DOT_CHUNK) + 1)
    if node.op is Op.REDUCE:
        depth = 1
        while True:
            in_block = min(terms, REDUCE_BLOCK)
            depth += -(-in_block // REDUCE_LANES) + (REDUCE_LANES - 1).bit_length()
            terms = -(-terms // REDUCE_BLOCK)
            if terms == 1:
                return float(depth)
    if node.op is Op.SCATTER:
        return float(max(1, terms - 1))
    if kind_of(node) is OpKind.DIVIDED:
        return _DIVIDED_ROUNDINGS
    return 2.0 if node.op is Op.FMA else 1.0


def magnitude_of(node: Node, sources: Sequence[Array]) -> Array:
    """The operation on absolute values, in float64; of the result's number of elements."""
    rule = _MAGNITUDES.get(node.op, _first)
    absolute = [
        np.abs(source.astype(np.float64)) if s.dtype.is_float else source
        for s, source in zip(node.src, sources, strict=True)
    ]
    with np.errstate(all="ignore"):
        return np.asarray(rule(node, *absolute))


def _first(node: Node, *absolute: Array) -> Array:
    return absolute[0]


def _reduced(node: Node, x: Array, y: Array | None = None) -> Array:
    kind, axes = node.arg
    if kind == "prod":
        return np.asarray(np.prod(x, axis=axes))
    return np.asarray(np.sum(x if y is None else x * y, axis=axes))


def _product(node: Node, a: Array, b: Array, valid: Array | None = None) -> Array:
    if valid is not None:
        counts = np.clip(valid, 0, a.shape[2])[:, :, None]
        a = np.where(np.arange(a.shape[2]) < counts, a, 0.0)
    return np.asarray(np.matmul(a, b))


def _scattered(node: Node, destination: Array, index: Array, updates: Array) -> Array:
    rows = index.astype(np.int64)
    inside = (rows >= 0) & (rows < destination.shape[0])
    total = destination.copy()
    np.add.at(total, rows[inside], updates[inside])
    return total


_MAGNITUDES: dict[Op, Callable[..., Array]] = {
    Op.ADD: lambda node, a, b: a + b,
    Op.MUL: lambda node, a, b: a * b,
    Op.FMA: lambda node, a, b, c: a * b + c,
    Op.DIV: lambda node, a, b: a / b,
    Op.SQRT: lambda node, a: np.sqrt(a),
    Op.REDUCE: _reduced,
    Op.DOT: _product,
    Op.SCATTER: _scattered,
}
