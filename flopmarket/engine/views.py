"""Index algebra: where an element of a view lies in the tensor below it.

A kernel runs over loop variables. Every access in it is a :class:`Linear` form of those variables:
an integer constant plus multiples of atoms, an atom being a variable or the floor quotient or
remainder of another form by a positive constant. :func:`through` pushes an index through one VIEW
node and says which conditions (:class:`Guard`) a pad adds. Ranges of all variables are known, so
most of the divisions that reshapes bring in cancel here, before any C is written.

Used by the scheduler (is this access pointwise?) and by ``codegen/lower.py``. Pure values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import gcd, prod

from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node, Shape


class Atom:
    """A thing that a :class:`Linear` form counts: a variable, a quotient, a remainder, or a form
    whose range a guard narrows ("bound").

    ``low`` and ``high`` bound its value, both included; ``depth`` is the nesting of the innermost
    loop it depends on (0: constant within the work-item). Atoms with equal ``key`` are equal.
    """

    __slots__ = ("by", "depth", "high", "key", "kind", "low", "of")

    def __init__(
        self, kind: str, key: str, low: int, high: int, depth: int, of: Linear | None, by: int
    ) -> None:
        self.kind, self.key, self.low, self.high = kind, key, low, high
        self.depth, self.of, self.by = depth, of, by

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Atom) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return self.key


class Linear:
    """``constant + sum(coefficient * atom)``, immutable, in one normal form; equal by ``key``."""

    __slots__ = ("constant", "depth", "high", "key", "low", "terms")

    def __init__(self, terms: tuple[tuple[Atom, int], ...], constant: int) -> None:
        self.terms = terms
        self.constant = constant
        self.low = constant + sum(c * (a.low if c > 0 else a.high) for a, c in terms)
        self.high = constant + sum(c * (a.high if c > 0 else a.low) for a, c in terms)
        self.depth = max((a.depth for a, _ in terms), default=0)
        self.key = "+".join([*(f"{c}*{a.key}" for a, c in terms), str(constant)])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Linear) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return self.key

    def __add__(self, other: Linear | int) -> Linear:
        if isinstance(other, int):
            return Linear(self.terms, self.constant + other) if other else self
        total = dict(self.terms)
        for atom, coefficient in other.terms:
            total[atom] = total.get(atom, 0) + coefficient
        return _normal(total, self.constant + other.constant)

    def __mul__(self, factor: int) -> Linear:
        if factor == 1:
            return self
        if factor == 0:
            return ZERO
        return Linear(tuple((a, c * factor) for a, c in self.terms), self.constant * factor)

    def coefficient(self, atom: Atom) -> int:
        """The multiple of ``atom`` that this form counts directly (not inside quotients)."""
        return next((c for a, c in self.terms if a == atom), 0)

    def depends_on(self, atom: Atom) -> bool:
        """Whether ``atom`` occurs, at any nesting."""
        return any(a == atom for form in self.forms() for a, _ in form.terms)

    def forms(self) -> Iterator[Linear]:
        """This form and every form nested in its quotients and remainders."""
        stack = [self]
        while stack:
            form = stack.pop()
            yield form
            stack.extend(a.of for a, _ in form.terms if a.of is not None)


Index = tuple[Linear, ...]

ZERO = Linear((), 0)


def constant(value: int) -> Linear:
    """The form that is always ``value``."""
    return Linear((), value)


def variable(name: str, count: int, depth: int) -> Linear:
    """A loop variable ``name`` over 0..count-1 in a loop at ``depth``; 0 where count is 1."""
    if count <= 1:
        return ZERO
    return Linear(((Atom("var", name, 0, count - 1, depth, None, 0), 1),), 0)


def atom_of(form: Linear) -> Atom | None:
    """The atom of a form that is one atom and nothing else."""
    if len(form.terms) == 1 and form.constant == 0 and form.terms[0][1] == 1:
        return form.terms[0][0]
    return None


def _normal(terms: dict[Atom, int], offset: int) -> Linear:
    live = {atom: c for atom, c in terms.items() if c}
    while (joined := _rejoin(live)) is not None:
        live, more = joined
        offset += more
    return Linear(tuple(sorted(live.items(), key=lambda item: item[0].key)), offset)


def _rejoin(terms: dict[Atom, int]) -> tuple[dict[Atom, int], int] | None:
    """Undo one split: ``c*d*(x // d) + c*(x % d)`` is ``c*x``. None where nothing rejoins."""
    for atom, c in terms.items():
        if atom.kind != "mod":
            continue
        assert atom.of is not None
        quotient = floor_divide(atom.of, atom.by)
        scale = c * atom.by
        if not quotient.terms or any(terms.get(a) != q * scale for a, q in quotient.terms):
            continue
        rest = dict(terms)
        del rest[atom]
        for a, _ in quotient.terms:
            del rest[a]
        for a, q in atom.of.terms:
            rest[a] = rest.get(a, 0) + q * c
        moved = atom.of.constant * c - quotient.constant * scale
        return {a: q for a, q in rest.items() if q}, moved
    return None


def _split(form: Linear, by: int) -> tuple[Linear, Linear]:
    """``form = by * whole + rest`` with every coefficient of ``rest`` not a multiple of ``by``."""
    whole = {a: c // by for a, c in form.terms if c % by == 0}
    rest = {a: c for a, c in form.terms if c % by}
    return _normal(whole, form.constant // by), _normal(rest, form.constant % by)


def _coarse(rest: Linear, by: int) -> tuple[int, Linear, Linear] | None:
    """A step g of ``by`` with ``rest = g * big + small`` and 0 <= small < g, the largest such g."""
    steps = sorted({gcd(c, by) for _, c in rest.terms} - {1}, reverse=True)
    for step in steps:
        big, small = _split(rest, step)
        if small.low >= 0 and small.high < step:
            return step, big, small
    return None


def floor_divide(form: Linear, by: int) -> Linear:
    """``form // by`` (floor), simplified; ``by`` > 0."""
    if by == 1:
        return form
    whole, rest = _split(form, by)
    if rest.low // by == rest.high // by:
        return whole + rest.low // by
    coarse = _coarse(rest, by)
    if coarse is not None and coarse[0] != 1:
        step, big, _ = coarse
        return whole + floor_divide(big, by // step)
    inner = atom_of(rest)
    if inner is not None and inner.kind == "div":
        assert inner.of is not None
        return whole + floor_divide(inner.of, inner.by * by)
    key = f"({rest.key})/{by}"
    atom = Atom("div", key, rest.low // by, rest.high // by, rest.depth, rest, by)
    return whole + Linear(((atom, 1),), 0)


def remainder(form: Linear, by: int) -> Linear:
    """``form % by`` (of the sign of ``by``), simplified; ``by`` > 0."""
    if by == 1:
        return ZERO
    _, rest = _split(form, by)
    if rest.low // by == rest.high // by:
        return rest + -by * (rest.low // by)
    coarse = _coarse(rest, by)
    if coarse is not None:
        step, big, small = coarse
        return remainder(big, by // step) * step + small
    inner = atom_of(rest)
    if inner is not None and inner.kind == "mod" and inner.by % by == 0:
        assert inner.of is not None
        return remainder(inner.of, by)
    atom = Atom("mod", f"({rest.key})%{by}", 0, by - 1, rest.depth, rest, by)
    return Linear(((atom, 1),), 0)


def divisors(forms: Iterable[Linear], name: str, count: int) -> list[int]:
    """By what ``forms`` divide the variable ``name`` alone, ascending: its axes' inner lengths.

    Only proper divisors of ``count``, the length of the variable's range.
    """
    found: set[int] = set()
    for form in forms:
        for inner in form.forms():
            for atom, _ in inner.terms:
                if atom.kind not in ("div", "mod") or count % atom.by:
                    continue
                assert atom.of is not None
                counted = (a.key for f in atom.of.forms() for a, _ in f.terms if a.kind == "var")
                if set(counted) == {name}:
                    found.add(atom.by)
    return sorted(found - {1, count})


# ---------------------------------------------------------------- shapes


def strides(shape: Shape) -> tuple[int, ...]:
    """Row-major element strides of ``shape``."""
    out, step = [], 1
    for n in reversed(shape):
        out.append(step)
        step *= n
    return tuple(reversed(out))


def flatten(index: Sequence[Linear], shape: Shape) -> Linear:
    """The row-major position of ``index`` in ``shape``."""
    total = ZERO
    for form, stride, n in zip(index, strides(shape), shape, strict=True):
        if n != 1:
            total = total + form * stride
    return total


def unflatten(flat: Linear, shape: Shape) -> Index:
    """The index in ``shape`` of the row-major position ``flat``, which lies inside."""
    out = []
    for stride, n in zip(strides(shape), shape, strict=True):
        if n == 1:
            out.append(ZERO)
            continue
        form = floor_divide(flat, stride)
        inside = form.low >= 0 and form.high < n
        out.append(form if inside else remainder(form, n))
    return tuple(out)


def space_index(names: str, shape: Shape, depths: Sequence[int]) -> Index:
    """One fresh variable per axis of ``shape``: ``names0``, ``names1``, ..."""
    return tuple(
        variable(f"{names}{axis}", n, depth)
        for axis, (n, depth) in enumerate(zip(shape, depths, strict=True))
    )


# ---------------------------------------------------------------- views


@dataclass(frozen=True, slots=True)
class Guard:
    """The condition ``0 <= form < count``; only what the form's range leaves open is tested."""

    form: Linear
    count: int


def through(node: Node, index: Index) -> tuple[Index, tuple[Guard, ...]]:
    """The source's index for element ``index`` of the VIEW ``node``, and a pad's conditions.

    Where a condition fails the element is 0 and the source's index means nothing.
    """
    kind = node.arg[0]
    source = node.src[0].shape
    if kind == "reshape":
        return _reshape(index, node.shape, source), ()
    if kind == "permute":
        out = [ZERO] * len(index)
        for position, axis in enumerate(node.arg[1]):
            out[axis] = index[position]
        return tuple(out), ()
    if kind == "expand":
        return tuple(ZERO if n == 1 else i for i, n in zip(index, source, strict=True)), ()
    if kind == "slice":
        moved = (i * step + start for i, (start, step, _) in zip(index, node.arg[1], strict=True))
        return tuple(moved), ()
    if kind == "window":
        return _window(node, index), ()
    if kind != "pad":
        raise EngineError(f"no index map for the view {kind!r}", code="VIEW_UNKNOWN")
    shifted = tuple(i + -low for i, (low, _) in zip(index, node.arg[1], strict=True))
    guards = tuple(
        Guard(form, n)
        for form, n in zip(shifted, source, strict=True)
        if form.low < 0 or form.high >= n
    )
    return tuple(bounded(form, n) for form, n in zip(shifted, source, strict=True)), guards


def bounded(form: Linear, count: int) -> Linear:
    """``form`` known to lie in 0..count-1, which lets divisions of it simplify.

    True only where a guard holds; elsewhere nothing is read at an index made of it. :func:`unbound`
    takes the knowledge off again.
    """
    if form.low >= 0 and form.high < count:
        return form
    low, high = max(0, form.low), min(count - 1, form.high)
    if low >= high:
        return constant(max(0, min(low, count - 1)))
    atom = Atom("bound", f"[{form.key}]<{count}", low, high, form.depth, form, 1)
    return Linear(((atom, 1),), 0)


def unbound(form: Linear) -> Linear:
    """``form`` with :func:`bounded` forms spelled out, so that strides can be read off."""
    while any(atom.kind == "bound" for atom, _ in form.terms):
        total = constant(form.constant)
        for atom, c in form.terms:
            if atom.kind == "bound":
                assert atom.of is not None
                total = total + atom.of * c
            else:
                total = total + Linear(((atom, c),), 0)
        form = total
    return form


def _window(node: Node, index: Index) -> Index:
    rank = len(node.src[0].shape)
    out = list(index[:rank])
    for tap, (axis, _, stride, dilation) in zip(index[rank:], node.arg[1], strict=True):
        out[axis] = out[axis] * stride + tap * dilation
    return tuple(out)


def _reshape(index: Index, shape: Shape, source: Shape) -> Index:
    """Map between shapes run by run: axes between which equal products close stay apart."""
    if prod(shape) == 0:
        return (ZERO,) * len(source)
    out: list[Linear] = []
    for have, want in _runs(shape, source):
        flat = flatten([index[axis] for axis in have], tuple(shape[axis] for axis in have))
        out.extend(unflatten(flat, tuple(source[axis] for axis in want)))
    return tuple(out)


def _runs(shape: Shape, source: Shape) -> Iterable[tuple[list[int], list[int]]]:
    """Smallest consecutive groups of axes of both shapes that hold equally many elements."""
    i = j = 0
    while i < len(shape) or j < len(source):
        have, want = [], []
        left = right = 1
        if i < len(shape):
            have.append(i)
            left, i = shape[i], i + 1
        if j < len(source):
            want.append(j)
            right, j = source[j], j + 1
        while left != right:
            if left < right:
                have.append(i)
                left, i = left * shape[i], i + 1
            else:
                want.append(j)
                right, j = right * source[j], j + 1
        yield have, want
