"""From graph nodes to values inside a loop nest: the part of lowering that all kernel families
share.

An :class:`Emitter` belongs to one kernel. Asked for a node's element at an index, it walks down
through elementwise operations, views, gathers and ramps until it meets buffers, literals, or the
value the kernel's core has just computed, and puts one statement per operation into the outermost
scope that has everything the operation depends on. The walk is iterative (a stack of generators):
graphs come from strangers and may be deep.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass

import numpy as np

from flopmarket.engine import views
from flopmarket.engine.codegen import opencl
from flopmarket.engine.codegen.loops import Assign, Let, Scope, Value
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.dtypes import DType, float64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import ELEMENTWISE, Node, Op
from flopmarket.engine.views import Atom, Guard, Index, Linear

Guards = tuple[Guard, ...]
Request = tuple[Node, Index, Guards]
Walk = Generator[Request, Value, Value]


@dataclass(frozen=True, slots=True)
class Temp:
    """A buffer that is no node: partial sums, packed operands. Unique by ``name`` in a plan."""

    name: str
    dtype: DType
    elements: int


BufferKey = Node | Temp


@dataclass(slots=True)
class Parameter:
    """One buffer argument of a kernel."""

    key: BufferKey
    name: str
    written: bool

    def declaration(self) -> str:
        """Its C declaration."""
        const = "" if self.written else "const "
        return f"__global {const}{self.key.dtype.c_name}* restrict {self.name}"


def elements_of(key: BufferKey) -> int:
    """Number of elements of a buffer."""
    return key.elements


class Emitter:
    """Builds the values of one kernel. ``is_stored`` tells which nodes lie in buffers; ``turn`` is
    the position of the turn that a kernel in a loop's body runs in."""

    def __init__(
        self,
        target: Target,
        is_stored: Callable[[Node], bool],
        *,
        wide: bool = False,
        turn: Linear | None = None,
    ) -> None:
        self.target = target
        self.wide = wide
        self.parameters: dict[BufferKey, Parameter] = {}
        self.forms: list[Linear] = []
        self.has_float64 = False
        self.spell: Callable[[Linear, bool], str] = opencl.index_text
        self._is_stored = is_stored
        self._turn = turn
        self._bound: dict[Node, tuple[str, Value]] = {}
        self._names = 0

    # ------------------------------------------------------------ names and parameters

    @property
    def index_type(self) -> str:
        """C type of loop variables."""
        return "long" if self.wide else "int"

    def fresh(self, letter: str = "v") -> str:
        """A name that no other value of the kernel has."""
        self._names += 1
        return f"{letter}{self._names}"

    def parameter(self, key: BufferKey, *, written: bool = False) -> Parameter:
        """The argument for a buffer, declared on first use."""
        found = self.parameters.get(key)
        if found is None:
            found = Parameter(key, f"p{len(self.parameters)}", written)
            self.parameters[key] = found
        found.written = found.written or written
        return found

    def bind(self, node: Node, flat: Linear, value: Value) -> None:
        """Let ``node``'s element at row-major position ``flat`` be ``value`` from now on."""
        self._bound[node] = (flat.key, value)

    # ------------------------------------------------------------ statements

    def let(
        self, scope: Scope, dtype: DType, text: str, depth: int, *, constant: bool = False
    ) -> Value:
        """A named constant in the outermost scope of at least ``depth``; equal text meets."""
        key: Hashable = ("text", dtype.code, text)
        found = scope.find(key)
        self.has_float64 |= dtype is float64
        if found is None:
            home = scope.at(depth)
            found = Value(self.fresh(), home.depth, constant)
            home.body.append(Let(opencl.register_type(dtype), found.text, text))
            home.memo[key] = found
        return found

    def index(self, form: Linear) -> str:
        """C text of an index form."""
        form = views.unbound(form)
        self.forms.append(form)
        return self.spell(form, self.wide)

    def at_turn(self, flat: Linear, elements: int) -> Linear:
        """Position ``flat`` of this turn's slice in an array of slices of ``elements``."""
        assert self._turn is not None, "slices exist in bodies of loops only"
        return flat + self._turn * elements

    def load(self, key: BufferKey, flat: Linear, scope: Scope, guards: Guards = ()) -> Value:
        """The element at ``flat`` of a buffer; 0, and no access, where a guard fails."""
        dtype = key.dtype
        if elements_of(key) == 0:
            return Value(opencl.zero(dtype), 0, constant=True)
        is_slice = isinstance(key, Node) and key.op is Op.INPUT and key.arg[0] == "item"
        at = self.index(self.at_turn(flat, elements_of(key)) if is_slice else flat)
        depth = flat.depth
        place = views.unbound(flat)
        if place.low >= 0 and place.high < elements_of(key):
            guards = ()  # the pad that wants them replaces the value; the access is legal anyway
        name = self.parameter(key).name
        if not guards:
            return self.let(scope, dtype, opencl.loaded(f"{name}[{at}]", dtype), depth)
        condition = self.condition(guards, scope)
        depth = max(depth, condition.depth)
        if self.target.is_cpu and _is_gathered(place):
            # An access that is never conditional lets the loop become a vector of gathers.
            at = f"{condition.text} ? {at} : 0"
            element = opencl.loaded(f"{name}[{at}]", dtype)
            element = element if dtype.kind == "b" else f"({element})"
            raw = self.let(scope, dtype, element, depth).text
        else:
            raw = opencl.loaded(f"{name}[{at}]", dtype)
        return self.let(scope, dtype, f"({condition.text} ? {raw} : {opencl.zero(dtype)})", depth)

    def store(self, key: BufferKey, flat: Linear, value: str, scope: Scope, final: bool) -> None:
        """Write one element; ``final`` values leave the engine and get the canonical NaN."""
        value = opencl.stored(value, key.dtype, final=final)
        self.has_float64 |= key.dtype is float64
        target = f"{self.parameter(key, written=True).name}[{self.index(flat)}]"
        scope.body.append(Assign(target, value))

    def condition(self, guards: Guards, scope: Scope) -> Value:
        """The conjunction of guards as one bool; ``&`` because ``&&`` would branch."""
        parts, depth = [], 0
        for guard in guards:
            tests = []
            text = self.index(guard.form)
            if guard.form.low < 0:
                tests.append(f"({text} >= 0)")
            if guard.form.high >= guard.count:
                tests.append(f"({text} < {guard.count})")
            part = self._bool(scope, " & ".join(tests) or "true", guard.form.depth)
            parts.append(part.text)
            depth = max(depth, part.depth)
        return self._bool(scope, " & ".join(parts), depth) if len(parts) > 1 else part

    def _bool(self, scope: Scope, text: str, depth: int) -> Value:
        key: Hashable = ("condition", text)
        found = scope.find(key)
        if found is None:
            home = scope.at(depth)
            found = Value(self.fresh("c"), home.depth)
            home.body.append(Let("bool", found.text, text))
            home.memo[key] = found
        return found

    # ------------------------------------------------------------ values

    def value(self, node: Node, index: Index, scope: Scope, guards: Guards = ()) -> Value:
        """The element of ``node`` at ``index``, computed in ``scope`` or further out."""
        stack: list[tuple[Walk, Hashable]] = []
        request: Request | None = (node, index, guards)
        result: Value | None = None
        while True:
            if request is not None:
                key = _memo_key(*request)
                result = scope.find(key)
                if result is None:
                    stack.append((self._walk(*request, scope), key))
            if not stack:
                assert result is not None
                return result
            walk, key = stack[-1]
            try:
                request = next(walk) if result is None else walk.send(result)
                result = None
            except StopIteration as stop:
                stack.pop()
                value: Value = stop.value
                scope.at(value.depth).memo[key] = value
                request, result = None, value
                if not stack:
                    return value

    def _walk(self, node: Node, index: Index, guards: Guards, scope: Scope) -> Walk:
        bound = self._bound.get(node)
        if bound is not None:
            flat = views.flatten(index, node.shape)
            if flat.key != bound[0]:
                raise EngineError(
                    f"{node!r} is needed at {flat.key} in a kernel that has it at {bound[0]}",
                    code="SCHEDULE_INVALID",
                )
            return bound[1]
        if self._is_stored(node):
            return self.load(node, views.flatten(index, node.shape), scope, guards)
        if node.op is Op.CONST:
            return self._literal(node, index, scope, guards)
        if node.op is Op.IOTA:
            form = index[node.arg[0]]
            text = f"(({node.dtype.c_name}){self.index(form)})"
            return self.let(scope, node.dtype, text, form.depth, constant=True)
        if node.op is Op.VIEW:
            return (yield from self._view(node, index, guards, scope))
        if node.op is Op.GATHER:
            return (yield from self._gather(node, index, guards, scope))
        if node.op not in ELEMENTWISE:
            raise EngineError(f"{node!r} cannot be part of a fused body", code="SCHEDULE_INVALID")
        args: list[Value] = []
        for source in node.src:
            argument = yield source, index, guards
            args.append(argument)
        text = opencl.operation(node, args, self.target)
        depth = max(a.depth for a in args)
        return self.let(scope, node.dtype, text, depth, constant=_is_constant(node, args))

    def _literal(self, node: Node, index: Index, scope: Scope, guards: Guards) -> Value:
        array = np.frombuffer(node.arg, dtype=node.dtype.numpy)
        if array.size and node.arg == array[:1].tobytes() * array.size:
            return Value(opencl.literal(array[0], node.dtype), 0, constant=True)
        return self.load(node, views.flatten(index, node.shape), scope, guards)

    def _view(self, node: Node, index: Index, guards: Guards, scope: Scope) -> Walk:
        source, more = views.through(node, index)
        if not more:
            return (yield node.src[0], source, guards)
        inside = tuple(dict.fromkeys((*guards, *more)))
        value = yield node.src[0], source, inside
        condition = self.condition(more, scope)
        text = f"({condition.text} ? {value.text} : {opencl.zero(node.dtype)})"
        depth = max(value.depth, condition.depth)
        return self.let(scope, node.dtype, text, depth, constant=value.constant)

    def _gather(self, node: Node, index: Index, guards: Guards, scope: Scope) -> Walk:
        data, at = node.src
        axis, count = node.arg[0], len(at.shape)
        chosen = yield at, index[axis : axis + count], guards
        last = max(0, data.shape[axis] - 1)
        atom = self._clamped(chosen, at.dtype, last, scope)
        place = Linear(((atom, 1),), 0) if last else views.ZERO
        return (yield data, (*index[:axis], place, *index[axis + count :]), guards)

    def _clamped(self, chosen: Value, dtype: DType, last: int, scope: Scope) -> Atom:
        limit = opencl.integer_literal(last, dtype)
        text = f"{chosen.text} > {limit} ? {limit} : {chosen.text}"
        if dtype.kind == "i":
            text = f"{chosen.text} < 0 ? ({dtype.c_name})0 : ({text})"
        key: Hashable = ("clamped", text)
        found = scope.find(key)
        if found is None:
            home = scope.at(chosen.depth)
            found = Value(self.fresh("g"), home.depth)
            home.body.append(Let(self.index_type, found.text, f"({self.index_type})({text})"))
            home.memo[key] = found
        return Atom("var", found.text, 0, last, found.depth, None, 0)


def _is_gathered(flat: Linear) -> bool:
    """Whether the innermost loop counts in quotients or remainders: neighbours lie anywhere."""
    return any(atom.kind != "var" and atom.depth == flat.depth for atom, _ in flat.terms)


def _is_constant(node: Node, args: list[Value]) -> bool:
    """Whether an operation's result may be known to a compiler; a choice may be the known side."""
    if node.op is Op.WHERE:
        return args[1].constant or args[2].constant
    if node.op is Op.MAX:
        return args[0].constant or args[1].constant
    return all(a.constant for a in args)


def _memo_key(node: Node, index: Index, guards: Guards) -> Hashable:
    return (node, tuple(i.key for i in index), tuple((g.form.key, g.count) for g in guards))
