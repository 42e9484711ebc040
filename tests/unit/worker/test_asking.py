"""Asks: amounts and formulas of the hour's tariff, exact and harmless."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.errors import InvalidInput
from flopmarket_worker.asking import AskInvalid, parse_ask
from flopmarket_worker.tariff import Tariff, parse_tariff, read_tariff
from flopmarket_worker.week import ALL_HOURS, Hour, parse_schedule

NIGHT = b"""
default = 0.32
[[window]]
days = ["mon", "tue", "wed", "thu", "fri"]
from = 22
to = 6
price = 0.18
[[window]]
days = ["sat", "sun"]
from = 10
to = 24
price = -0.01
"""
FLAT = Tariff(Fraction("0.30"))
NOON = Hour(2, 12)
CARD_MILLIWATTS = 300_000


def ask(text: str, tariff: Tariff | None = FLAT, at: Hour = NOON) -> int:
    return parse_ask(text, tariff).nano_per_hour(at, CARD_MILLIWATTS)


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("0.05", 50_000_000),
        ("$0.05", 50_000_000),
        ("1", 1_000_000_000),
        ("0.1 + 0.2", 300_000_000),
        ("electricity", 90_000_000),
        ("electricity * 1.3 + 0.02", 137_000_000),
        ("max(electricity, 0.5) - min(0.1, tariff, 2)", 400_000_000),
        ("watts / 1000", 300_000_000),
        ("(hour + 0) / 100", 120_000_000),
        ("-(-tariff)", 300_000_000),
        ("1 / 3", 333_333_334),
        ("2 - 1 - 0.5", 500_000_000),
        ("0.000000001 / 7", 1),
    ],
)
def test_a_formula_is_exact_and_rounded_up_once(text: str, nano: int) -> None:
    assert ask(text) == nano


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "ASK_INVALID"),
        ("0.0", "ASK_NOT_POSITIVE"),
        ("-1", "ASK_NOT_POSITIVE"),
        ("tariff - 1", "ASK_NOT_POSITIVE"),
        ("1 / 0", "ASK_DIVIDES_BY_ZERO"),
        ("1 / (hour - 12)", "ASK_DIVIDES_BY_ZERO"),
        ("9 ** 9", "ASK_INVALID"),
        ("9 // 2", "ASK_INVALID"),
        ("1e400", "ASK_INVALID"),
        ("0x10", "ASK_INVALID"),
        ("1_000", "ASK_INVALID"),
        ("1j", "ASK_INVALID"),
        ("True", "ASK_INVALID"),
        ("nan", "ASK_INVALID"),
        ("price", "ASK_INVALID"),
        ("min(1)", "ASK_INVALID"),
        ("min()", "ASK_INVALID"),
        ("min(1, 2, key=3)", "ASK_INVALID"),
        ("abs(1)", "ASK_INVALID"),
        ("hour.real", "ASK_INVALID"),
        ("(1, 2)", "ASK_INVALID"),
        ("(lambda: 1)()", "ASK_INVALID"),
        ("max.__class__", "ASK_INVALID"),
        ("__import__('os')", "ASK_INVALID"),
        ("0.05 # cheap", "ASK_INVALID"),
        ("1 if hour else 2", "ASK_INVALID"),
        ("0.05 +", "ASK_INVALID"),
        ("1 1", "ASK_INVALID"),
        ("(" * 150 + "1" + ")" * 40, "ASK_INVALID"),
        ("1" + "+1" * 200, "ASK_INVALID"),
        ("9" * 13, "ASK_INVALID"),
        ("999999999999*" * 10 + "9", "ASK_TOO_LARGE"),
        ("999999999999 * 999999999999", "ASK_TOO_LARGE"),
    ],
)
def test_a_hostile_formula_is_refused_with_its_reason(text: str, code: str) -> None:
    with pytest.raises(AskInvalid) as caught:
        ask(text)
    assert caught.value.code == code
    assert len(caught.value.message) < 600


def test_products_stay_bounded_on_their_way() -> None:
    """Two hundred characters cannot make a number that takes noticeable time."""
    product = "*".join(["999999999999"] * 14)
    with pytest.raises(AskInvalid, match="256 bits"):
        ask(f"{product} * 0")


@given(st.text(alphabet="0123456789.+-*/(), electricymnaxhoursw", max_size=60))
def test_any_text_has_a_positive_ask_or_a_clear_error(text: str) -> None:
    try:
        nano = ask(text)
    except AskInvalid as error:
        assert error.code.startswith("ASK_")
    else:
        assert 0 < nano < 2**63


def test_names_need_what_they_name() -> None:
    with pytest.raises(AskInvalid) as caught:
        parse_ask("electricity", None)
    assert caught.value.code == "ASK_NEEDS_TARIFF"
    with pytest.raises(AskInvalid) as caught:
        parse_ask("electricity + 0.02", FLAT).check(0)
    assert caught.value.code == "ASK_NEEDS_WATTS"
    parse_ask("tariff + 0.02", FLAT).check(0)


def test_the_check_finds_the_hour_in_which_a_formula_fails() -> None:
    tariff = parse_tariff(NIGHT)
    with pytest.raises(AskInvalid, match="sat 10:00") as caught:
        parse_ask("electricity * 1.3", tariff).check(CARD_MILLIWATTS)
    assert caught.value.code == "ASK_NOT_POSITIVE"
    parse_ask("max(0.001, electricity * 1.3)", tariff).check(CARD_MILLIWATTS)


def test_whether_the_hour_can_change_an_ask() -> None:
    assert not parse_ask("0.05").changes
    assert not parse_ask("watts / 1000").changes
    assert parse_ask("electricity", FLAT).changes
    assert parse_ask("hour + 1").changes


@pytest.mark.parametrize(
    ("at", "price"),
    [
        (Hour(0, 5), "0.32"),  # Monday before dawn: Sunday evening has no such window
        (Hour(0, 21), "0.32"),
        (Hour(0, 22), "0.18"),
        (Hour(1, 5), "0.18"),
        (Hour(1, 6), "0.32"),
        (Hour(5, 5), "0.18"),  # Saturday before dawn belongs to Friday's window
        (Hour(5, 9), "0.32"),
        (Hour(5, 23), "-0.01"),
        (Hour(6, 0), "0.32"),
    ],
)
def test_windows_of_a_tariff(at: Hour, price: str) -> None:
    assert parse_tariff(NIGHT).price(at) == Fraction(price)


def test_a_price_alone_is_a_tariff_and_a_file_is_read(tmp_path: Path) -> None:
    assert read_tariff("0.30").price(NOON) == Fraction(3, 10)
    path = tmp_path / "tariff.toml"
    path.write_bytes(NIGHT)
    assert [read_tariff(str(path)).price(at) for at in ALL_HOURS] == [
        parse_tariff(NIGHT).price(at) for at in ALL_HOURS
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"default = [",
        b"default = 'cheap'",
        b"default = nan",
        b"default = 1e9",
        b"default = 0.3000000001",
        b"default = 5000",
        b"default = true",
        b"default = 0.3\ncurrency = 'USD'",
        b"default = 0.3\nwindow = 3",
        b"default = 0.3\n[[window]]\nfrom = 1\nto = 2",
        b"default = 0.3\n[[window]]\nfrom = 1\nto = 1\nprice = 1",
        b"default = 0.3\n[[window]]\nfrom = 1\nto = 25\nprice = 1",
        b"default = 0.3\n[[window]]\nfrom = 24\nto = 1\nprice = 1",
        b"default = 0.3\n[[window]]\nfrom = 1.5\nto = 2\nprice = 1",
        b"default = 0.3\n[[window]]\nfrom = 1\nto = 2\nprice = 1\ndays = ['monday']",
        b"default = 0.3\n[[window]]\nfrom = 1\nto = 2\nprice = 1\ndays = []",
        b"default = 0.3\n" + b"[[window]]\nfrom = 1\nto = 2\nprice = 1\n" * 501,
        b"\xff",
        b"default = " + b"9" * 5_000,
        b"default = 0x" + b"f" * 5_000,
        b"default = [0x" + b"f" * 5_000 + b"]",
        b"default = " + b"[" * 5_000,
        b"default = 0.3\n[[window]]\nto = 2\nprice = 1\nfrom = 0x" + b"f" * 5_000,
    ],
    ids=lambda content: content[:40],
)
def test_a_broken_tariff_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_tariff(content)
    assert caught.value.code == "TARIFF_MALFORMED"


def test_a_tariff_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_tariff(str(tmp_path / "none.toml"))
    assert caught.value.code == "TARIFF_UNREADABLE"
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (65 << 10))
    with pytest.raises(InvalidInput) as caught:
        read_tariff(str(large))
    assert caught.value.code == "TARIFF_TOO_BIG"


@pytest.mark.parametrize(
    ("texts", "open_at", "closed_at"),
    [
        ([], [Hour(0, 0), Hour(6, 23)], []),
        (["22-6"], [Hour(0, 22), Hour(1, 5), Hour(0, 0)], [Hour(0, 6), Hour(0, 21)]),
        (["mon-fri 18-8"], [Hour(4, 18), Hour(5, 7)], [Hour(5, 18), Hour(0, 7), Hour(0, 12)]),
        (["sat,sun 0-24"], [Hour(5, 0), Hour(6, 23)], [Hour(0, 0), Hour(4, 23)]),
        (["sat-mon 9-10"], [Hour(5, 9), Hour(6, 9), Hour(0, 9)], [Hour(1, 9), Hour(0, 10)]),
        (["Mon 1-2", "tue 3-4"], [Hour(0, 1), Hour(1, 3)], [Hour(0, 3), Hour(1, 1)]),
    ],
)
def test_schedules(texts: list[str], open_at: list[Hour], closed_at: list[Hour]) -> None:
    schedule = parse_schedule(texts)
    assert all(schedule.is_open(at) for at in open_at)
    assert not any(schedule.is_open(at) for at in closed_at)


@pytest.mark.parametrize(
    "text", ["", "night", "6-6", "24-6", "1-25", "foo 1-2", "mon-tue-wed 1-2", "mon 1", "-1-3"]
)
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_schedule([text])
    assert caught.value.code == "SCHEDULE_MALFORMED"
    with pytest.raises(InvalidInput):
        parse_schedule(["1-2"] * 51)
