"""What the owner asks for an hour: an amount, or a formula of the hour's tariff.

``--ask 0.05`` or ``--ask 'electricity * 1.3 + 0.02'``. A formula knows four names: ``tariff``
(currency per kWh now), ``watts`` (of this device under load), ``electricity`` (what that costs an
hour: watts / 1000 * tariff) and ``hour`` (0 to 23); and ``+ - * /``, ``min``, ``max`` and
parentheses. Numbers are exact fractions, the result is rounded up once to a nano-unit. Python's
parser reads the text and nothing of it is ever evaluated as Python.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import NoReturn

from flopmarket.errors import InvalidInput
from flopmarket.limits import MAX_ASK_BITS, MAX_ASK_CHARACTERS
from flopmarket.market.money import MAX_NANO, NANO_PER_UNIT, Nano, round_up_nano
from flopmarket_worker.tariff import Tariff
from flopmarket_worker.week import ALL_HOURS, Hour

NAMES = ("electricity", "tariff", "watts", "hour")
MILLIWATTS_PER_KILOWATT = 1_000_000

_TEXT = re.compile(r"[0-9a-z.+\-*/(), ]+")
_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")


class AskInvalid(InvalidInput):
    """The ask is not a formula, or has no value above zero."""

    default_code = "ASK_INVALID"


@dataclass(frozen=True, slots=True)
class Ask:
    """A checked formula, its tariff if there is one, and the names it uses.

    Made by :func:`parse_ask`; :meth:`check` is to be called once the watts are known.
    """

    text: str
    tree: ast.expr
    names: frozenset[str]
    tariff: Tariff | None

    @property
    def changes(self) -> bool:
        """Whether the hour can make a difference."""
        return bool(self.names - {"watts"})

    def nano_per_hour(self, at: Hour, milliwatts: int) -> Nano:
        """The ask in that hour, rounded up; :class:`AskInvalid` when it is not above zero."""
        values: dict[str, Fraction] = {
            "hour": Fraction(at.hour),
            "watts": Fraction(milliwatts, 1000),
        }
        if self.tariff is not None:
            values["tariff"] = self.tariff.price(at)
            values["electricity"] = values["tariff"] * milliwatts / MILLIWATTS_PER_KILOWATT
        amount = _value(self.tree, values, self.text)
        if amount <= 0:
            raise AskInvalid(
                f"at {at} the ask {self.text!r} comes to {_shown(amount)}, which is not above zero",
                code="ASK_NOT_POSITIVE",
                hint="put a floor under it: max(0.001, ...)",
            )
        if amount * NANO_PER_UNIT > MAX_NANO:
            raise AskInvalid(
                f"at {at} the ask {self.text!r} does not fit 63 bits of nano-units",
                code="ASK_TOO_LARGE",
            )
        return round_up_nano(amount * NANO_PER_UNIT, name="ask")

    def check(self, milliwatts: int) -> None:
        """Raise :class:`AskInvalid` unless every hour of the week has an ask at this power."""
        if not milliwatts and self.names & {"watts", "electricity"}:
            raise AskInvalid(
                f"the ask {self.text!r} needs the device's watts, which nobody states",
                code="ASK_NEEDS_WATTS",
                hint="say --watts W",
            )
        for at in ALL_HOURS:
            self.nano_per_hour(at, milliwatts)


def parse_ask(text: str, tariff: Tariff | None = None) -> Ask:
    """The ask of ``--ask``; :class:`AskInvalid` names what is not understood."""
    text = text.strip().removeprefix("$")
    if not 0 < len(text) <= MAX_ASK_CHARACTERS:
        raise AskInvalid(f"an ask has 1 to {MAX_ASK_CHARACTERS} characters, got {len(text)}")
    if not _TEXT.fullmatch(text):
        _refuse(text, "it has a character that no formula has")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        _refuse(text, "it is not a formula")
    names: set[str] = set()
    _check(tree, text, names)
    if names & {"tariff", "electricity"} and tariff is None:
        raise AskInvalid(
            f"the ask {text!r} needs a tariff",
            code="ASK_NEEDS_TARIFF",
            hint="say --tariff 0.30 or --tariff FILE.toml",
        )
    return Ask(text, tree, frozenset(names), tariff)


def _check(node: ast.expr, text: str, names: set[str]) -> None:
    """Raise unless the tree is made of what a formula may have. As deep as the text is long."""
    match node:
        case ast.BinOp(left, ast.Add() | ast.Sub() | ast.Mult() | ast.Div(), right):
            _check(left, text, names)
            _check(right, text, names)
        case ast.UnaryOp(ast.USub() | ast.UAdd(), operand):
            _check(operand, text, names)
        case ast.Call(ast.Name("min" | "max"), [_, _, *_] as arguments, []):
            for argument in arguments:
                _check(argument, text, names)
        case ast.Name(name) if name in NAMES:
            names.add(name)
        case ast.Name(name):
            _refuse(text, f"{name!r} is unknown; a formula knows {', '.join(NAMES)}, min, max")
        case ast.Constant() if _NUMBER.fullmatch(ast.get_source_segment(text, node) or ""):
            pass
        case _:
            part = ast.get_source_segment(text, node) or text
            _refuse(text, f"{part!r} is not one of: numbers, names, + - * /, min(a, b), max(a, b)")


def _value(node: ast.expr, values: Mapping[str, Fraction], text: str) -> Fraction:
    """The exact value of a checked tree."""
    match node:
        case ast.BinOp(left, operator, right):
            one, two = _value(left, values, text), _value(right, values, text)
            return _bounded(_apply(operator, one, two, text), text)
        case ast.UnaryOp(ast.USub(), operand):
            return -_value(operand, values, text)
        case ast.UnaryOp(_, operand):
            return _value(operand, values, text)
        case ast.Call(ast.Name(name), arguments):
            choose = min if name == "min" else max
            return choose(_value(argument, values, text) for argument in arguments)
        case ast.Name(name):
            return values[name]
        case _:
            return Fraction(ast.get_source_segment(text, node) or "0")


def _apply(operator: ast.operator, one: Fraction, two: Fraction, text: str) -> Fraction:
    match operator:
        case ast.Add():
            return one + two
        case ast.Sub():
            return one - two
        case ast.Mult():
            return one * two
        case _:
            if not two:
                raise AskInvalid(f"the ask {text!r} divides by zero", code="ASK_DIVIDES_BY_ZERO")
            return one / two


def _bounded(value: Fraction, text: str) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_ASK_BITS:
        raise AskInvalid(
            f"the ask {text!r} has a value of more than {MAX_ASK_BITS} bits", code="ASK_TOO_LARGE"
        )
    return value


def _shown(amount: Fraction) -> str:
    """A short form for messages: millionths, towards zero."""
    whole, part = divmod(abs(int(amount * 10**6)), 10**6)
    return f"{'-' if amount < 0 else ''}{whole}.{part:06}"[:40]


def _refuse(text: str, why: str) -> NoReturn:
    raise AskInvalid(
        f"the ask {text[:MAX_ASK_CHARACTERS]!r} is not understood: {why}",
        hint="write an amount like 0.05, or a formula like 'electricity * 1.3 + 0.02'",
    )
