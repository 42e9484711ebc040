"""LOOP as launches: the launches of its body, and which buffers they see in which turn.

The kernels of a body are written and built once. They read the slice of a scanned array, and write
the slice of a stacked result, at an offset that the launch brings along as its global offset in the
last axis (:data:`TURN`), so that nothing is copied and no argument is bound anew. Carries have two
buffers that take turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flopmarket.engine.codegen.emit import BufferKey
from flopmarket.engine.codegen.nest import Call
from flopmarket.engine.views import Atom, Linear

TURN = "get_global_offset(2)"
"""C text of a turn's position along the scanned axis."""

_THIRD_INDEX = "get_global_id(2)"


@dataclass(frozen=True, slots=True)
class LoopCall:
    """One execution of a loop. ``once`` runs before the first turn, ``calls`` in every turn.

    Buffers of ``once`` and ``calls`` have names of their own; ``even`` and ``odd`` say which ones
    around the loop they are in turns 0, 2, .. and 1, 3, .. (``once`` sees the even ones).
    ``arguments`` are all of the latter, ``written`` the positions of those that are written.
    """

    count: int
    reverse: bool
    once: tuple[AnyCall, ...]
    calls: tuple[AnyCall, ...]
    even: Mapping[BufferKey, BufferKey]
    odd: Mapping[BufferKey, BufferKey]
    arguments: tuple[BufferKey, ...]
    written: frozenset[int]

    family = "loop"

    @property
    def global_size(self) -> tuple[int, ...]:
        """The number of turns, for the profile's table."""
        return (self.count,)

    @property
    def flops(self) -> int:
        """Operations of all turns."""
        return sum(c.flops for c in self.once) + self.count * sum(c.flops for c in self.calls)

    @property
    def size_bytes(self) -> int:
        """Bytes moved in all turns."""
        turn = sum(call.size_bytes for call in self.calls)
        return sum(call.size_bytes for call in self.once) + self.count * turn


AnyCall = Call | LoopCall


def turn_form(count: int) -> Linear:
    """The turn's position as an index form."""
    if count <= 1:
        return Linear((), 0)
    return Linear(((Atom("var", f"(int){TURN}", 0, count - 1, 0, None, 0), 1),), 0)


def with_offset(text: str) -> str:
    """A kernel's text when its launch has a global offset: what counts work-items starts at 0."""
    if TURN not in text:
        return text
    return text.replace(_THIRD_INDEX, f"({_THIRD_INDEX} - {TURN})")


def plain_calls(calls: Sequence[AnyCall]) -> list[Call]:
    """Every kernel launch of ``calls`` and of the loops among them, once."""
    found: list[Call] = []
    for call in calls:
        if isinstance(call, LoopCall):
            found += plain_calls((*call.once, *call.calls))
        else:
            found.append(call)
    return found


def executed(calls: Sequence[AnyCall]) -> int:
    """Launches that running ``calls`` makes, every turn counted."""
    return sum(
        executed(call.once) + call.count * executed(call.calls) if isinstance(call, LoopCall) else 1
        for call in calls
    )
