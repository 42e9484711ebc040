"""Regular expressions matched in linear time, for patterns that come from a stranger's model.

The syntax is the part of Python's that RE2 shares: no look-around, no back-references. A pattern
becomes a nondeterministic automaton whose states advance together (Thompson, "Regular expression
search algorithm", 1968), so no pattern takes longer than its states times the length of the text.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from flopmarket.engine.formats.onnx import limits
from flopmarket.engine.formats.onnx.errors import OnnxIllegal, OnnxUnsupported

_CATEGORIES = {
    f"CATEGORY_{negated}{name}": re.compile(letter.upper() if negated else letter, re.ASCII)
    for name, letter in (("DIGIT", r"\d"), ("SPACE", r"\s"), ("WORD", r"\w"))
    for negated in ("", "NOT_")
}
_WORD = _CATEGORIES["CATEGORY_WORD"]

Test = Callable[[str], bool]
Where = Callable[[str, int], bool]


@dataclass(slots=True)
class _State:
    """One state: consumes a character that passes ``test``; or, with none, moves on freely where
    ``where`` holds."""

    test: Test | None = None
    where: Where | None = None
    next: list[int] = field(default_factory=list)


class Pattern:
    """A compiled pattern. Raises OnnxIllegal for bad syntax, OnnxUnsupported for what RE2 has not
    or what grows past :data:`limits.MAX_PATTERN_STATES`."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > limits.MAX_PATTERN_CHARACTERS:
            raise OnnxUnsupported(
                f"a pattern of {len(pattern)} characters, at most {limits.MAX_PATTERN_CHARACTERS}"
            )
        self._states: list[_State] = []
        try:
            parsed, self._flags = _parsed(pattern)
            self._end = self._add(_State())
            self._start = self._sequence(parsed, self._end)
        except (re.error, OverflowError, RecursionError) as error:
            raise OnnxIllegal(f"{pattern!r} is no pattern: {error}") from None

    def matches(self, text: str) -> bool:
        """Whether the whole text matches."""
        live = self._closure([self._start], text, 0)
        for at, character in enumerate(text):
            onward = [
                follower
                for number in live
                if (state := self._states[number]).test is not None and state.test(character)
                for follower in state.next
            ]
            live = self._closure(onward, text, at + 1)
            if not live:
                return False
        return self._end in live

    def _closure(self, numbers: Iterable[int], text: str, at: int) -> set[int]:
        """The states reached without reading on."""
        found: set[int] = set()
        waiting = list(numbers)
        while waiting:
            number = waiting.pop()
            if number in found:
                continue
            found.add(number)
            state = self._states[number]
            if state.test is None and (state.where is None or state.where(text, at)):
                waiting += state.next
        return found

    # ------------------------------------------------------------ building, from the end backwards

    def _add(self, state: _State) -> int:
        if len(self._states) >= limits.MAX_PATTERN_STATES:
            raise OnnxUnsupported(f"a pattern of more than {limits.MAX_PATTERN_STATES} states")
        self._states.append(state)
        return len(self._states) - 1

    def _sequence(self, items: Iterable[Any], after: int) -> int:
        """The first state of ``items`` followed by ``after``."""
        for kind, detail in reversed(list(items)):
            after = self._item(str(kind), detail, after)
        return after

    def _item(self, kind: str, detail: Any, after: int) -> int:
        test = _test(kind, detail, self._flags)
        if test is not None:
            return self._add(_State(test=test, next=[after]))
        if kind == "SUBPATTERN":
            _, added, removed, items = detail
            if added or removed:
                raise OnnxUnsupported("flags inside a pattern")
            return self._sequence(items, after)
        if kind == "BRANCH":
            return self._add(_State(next=[self._sequence(items, after) for items in detail[1]]))
        if kind in ("MAX_REPEAT", "MIN_REPEAT"):
            low, high, items = detail
            return self._repeat(low, high, items, after)
        if kind == "AT" and str(detail) in _PLACES:
            return self._add(_State(where=_PLACES[str(detail)], next=[after]))
        raise OnnxUnsupported(f"{kind.lower().replace('_', ' ')} in a pattern")

    def _repeat(self, low: int, high: Any, items: Any, after: int) -> int:
        low = int(low)
        if str(high) == "MAXREPEAT":
            again = self._add(_State(next=[after]))
            self._states[again].next.append(self._sequence(items, again))
            after = again
        else:
            end = after
            for _ in range(int(high) - low):
                after = self._add(_State(next=[end, self._sequence(items, after)]))
        for _ in range(low):
            after = self._sequence(items, after)
        return after


def _parsed(pattern: str) -> tuple[Any, int]:
    """Python's own parse of a pattern, and its flags."""
    from re import _parser  # type: ignore[attr-defined]  # the one public door runs the matcher too

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about syntax that a later Python may read otherwise
        parsed = _parser.parse(pattern)
    flags = int(parsed.state.flags)
    if flags & ~int(re.UNICODE | re.IGNORECASE | re.DOTALL):
        raise OnnxUnsupported("flags other than i and s in a pattern")
    return parsed, flags


def _at_border(text: str, at: int) -> bool:
    before = at > 0 and _WORD.match(text[at - 1]) is not None
    return before != (at < len(text) and _WORD.match(text[at]) is not None)


_PLACES: dict[str, Where] = {
    "AT_BEGINNING": lambda text, at: at == 0,
    "AT_BEGINNING_STRING": lambda text, at: at == 0,
    "AT_END": lambda text, at: at == len(text),
    "AT_END_STRING": lambda text, at: at == len(text),
    "AT_BOUNDARY": _at_border,
    "AT_NON_BOUNDARY": lambda text, at: not _at_border(text, at),
}


def _test(kind: str, detail: Any, flags: int) -> Test | None:
    """The test of one character that an item stands for, or None if it is no such item."""
    if kind == "LITERAL":
        return _folded(lambda character: ord(character) == detail, flags)
    if kind == "NOT_LITERAL":
        same = _folded(lambda character: ord(character) == detail, flags)
        return lambda character: not same(character)
    if kind == "ANY":
        return lambda character: character != "\n" or bool(flags & re.DOTALL)
    if kind == "RANGE":
        low, high = detail
        return _folded(lambda character: low <= ord(character) <= high, flags)
    if kind == "CATEGORY":
        category = _CATEGORIES[str(detail)]
        return lambda character: category.match(character) is not None
    if kind != "IN":
        return None
    negated = bool(detail) and str(detail[0][0]) == "NEGATE"
    parts = [_test(str(k), d, flags) for k, d in detail[negated:]]

    def member(character: str) -> bool:
        return any(part is not None and part(character) for part in parts) != negated

    return member


def _folded(test: Test, flags: int) -> Test:
    if not flags & re.IGNORECASE:
        return test
    return lambda character: any(
        len(form) == 1 and test(form) for form in (character, character.lower(), character.upper())
    )
