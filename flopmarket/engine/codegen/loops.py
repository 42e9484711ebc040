"""The loop IR: what a kernel's body is before it becomes text.

``lower.py`` builds statements into nested :class:`Scope` s; ``opencl.py`` renders them. A scope is
a loop body at some depth; a value is put into the outermost scope that knows all it depends on, so
that nothing is computed twice and nothing invariant stays in an inner loop. Expressions are C text,
because a kernel's arithmetic is fixed by FX1 and nothing below this level may rearrange it.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Let:
    """``const type name = value;``"""

    type: str
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Array:
    """A private array, uninitialised."""

    type: str
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Assign:
    """``target = value;`` where the target is a variable, an array element or a buffer element."""

    target: str
    value: str


@dataclass(frozen=True, slots=True)
class Variable:
    """A mutable variable."""

    type: str
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Line:
    """A statement that the IR has no form for (barriers, template snippets)."""

    text: str


@dataclass(slots=True)
class Loop:
    """``for (var = start; var < stop; var += step) body``; ``start`` and ``stop`` are C text."""

    type: str
    name: str
    start: str
    stop: str
    body: list[Statement]
    step: str = "1"


@dataclass(slots=True)
class If:
    """``if (condition) body``."""

    condition: str
    body: list[Statement]


Statement = Let | Array | Assign | Variable | Line | Loop | If


@dataclass(frozen=True, slots=True)
class Value:
    """C text (a name or a literal) and the depth of the scope that it needs.

    ``constant``: a compiler may come to know the value (it is made of literals and ramps, or may be
    one of them). LLVM folds the product of two known factors of a contracted FMA, which rounds it.
    """

    text: str
    depth: int
    constant: bool = False


@dataclass(slots=True)
class Scope:
    """A body under construction; ``memo`` holds the values already computed in it."""

    depth: int
    body: list[Statement]
    parent: Scope | None = None
    memo: dict[Hashable, Value] = field(default_factory=dict)

    def child(self, body: list[Statement]) -> Scope:
        """A scope one deeper, filling ``body``."""
        return Scope(self.depth + 1, body, self)

    def at(self, depth: int) -> Scope:
        """The enclosing scope of ``depth``, or the nearest one around it."""
        scope = self
        while scope.depth > depth and scope.parent is not None:
            scope = scope.parent
        return scope

    def find(self, key: Hashable) -> Value | None:
        """What was computed under ``key`` here or further out."""
        scope: Scope | None = self
        while scope is not None:
            if key in scope.memo:
                return scope.memo[key]
            scope = scope.parent
        return None


def render(body: list[Statement], indent: int = 1) -> str:
    """C text of a body, one statement a line."""
    pad = "    " * indent
    lines: list[str] = []
    for s in body:
        if isinstance(s, Let):
            lines.append(f"{pad}const {s.type} {s.name} = {s.value};")
        elif isinstance(s, Array):
            lines.append(f"{pad}{s.type} {s.name}[{s.size}];")
        elif isinstance(s, Variable):
            lines.append(f"{pad}{s.type} {s.name} = {s.value};")
        elif isinstance(s, Assign):
            lines.append(f"{pad}{s.target} = {s.value};")
        elif isinstance(s, Line):
            lines.append(f"{pad}{s.text}")
        elif isinstance(s, If):
            lines.append(f"{pad}if ({s.condition}) {{\n{render(s.body, indent + 1)}\n{pad}}}")
        else:
            head = f"for ({s.type} {s.name} = {s.start}; {s.name} < {s.stop}; {s.name} += {s.step})"
            lines.append(f"{pad}{head} {{\n{render(s.body, indent + 1)}\n{pad}}}")
    return "\n".join(lines)
