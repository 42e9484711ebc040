"""Targets: small texts: prices, formulas, tariffs, hours, filters, tokens, addresses."""

from __future__ import annotations

from datetime import UTC, datetime

from flopmarket.cli.order_times import microseconds, parse_deadline
from flopmarket.client.offer_filters import filter_to_proto
from flopmarket.errors import InvalidInput
from flopmarket.market.money import format_nano, parse_nano
from flopmarket.market.region import check_region
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.application import Application
from flopmarket_coordinator.config import ListenAddress
from flopmarket_coordinator.core.book.book import Book
from flopmarket_coordinator.rpc.book_line import BookToken
from flopmarket_coordinator.rpc.convert_market import filters_of
from flopmarket_coordinator.rpc.series import Series
from flopmarket_coordinator.rpc.trade_messages import TradeToken
from flopmarket_coordinator.web.query import OfferForm
from flopmarket_worker.asking import parse_ask
from flopmarket_worker.tariff import parse_tariff
from flopmarket_worker.week import ALL_HOURS, Hour, parse_schedule
from tests.fuzz.target import Target

QUERY = "offers dot-f32 price"
ANY_MODE, EXACT = Series("dot-f32"), Series("dot-f32", Mode.EXACT)
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def _text(data: bytes) -> str:
    """As a command line gives it: bytes that are no UTF-8 become lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def _message(data: bytes) -> str:
    """As gRPC and the board's web server give it: always UTF-8, anything in it."""
    return data.decode("utf-8", "replace")


def read_ask(data: bytes) -> object:
    tariff = parse_tariff(b"default = 0.3")
    ask = parse_ask(_text(data), tariff)
    ask.check(350_000)
    return ask.nano_per_hour(Hour(2, 5), 350_000)


def read_tariff(data: bytes) -> object:
    tariff = parse_tariff(data)
    return [tariff.price(at) for at in ALL_HOURS]


def read_schedule(data: bytes) -> object:
    schedule = parse_schedule(_text(data).split("|"))
    return [schedule.is_open(at) for at in ALL_HOURS]


def read_amount(data: bytes) -> object:
    amount = parse_nano(_text(data))
    assert parse_nano(format_nano(amount)) == amount
    return amount


def read_region(data: bytes) -> object:
    return check_region(_text(data))


def read_deadline(data: bytes) -> object:
    return microseconds(parse_deadline(_text(data), NOW, UTC))


def read_address(data: bytes) -> object:
    address = ListenAddress.parse(_text(data))
    assert ListenAddress.parse(str(address)) == address
    return address.is_loopback


def _market() -> Application:
    """Enough of an application to read page tokens."""
    market = object.__new__(Application)
    market._page_secret = b"s" * 32
    return market


def read_page_token(data: bytes) -> object:
    position = _market()._page_position(QUERY, _message(data))
    assert position is None or position == [1, "offer"]  # the only token ever given out here
    return position


def read_resume_token(data: bytes) -> object:
    text = _message(data)
    try:
        trade = TradeToken.parse(text, ANY_MODE)
        assert trade is None or TradeToken.parse(str(trade), ANY_MODE) == trade
    except InvalidInput:
        book = BookToken.parse(text, EXACT)
        assert book is None or BookToken.parse(str(book), EXACT) == book
    return text


def read_filters(data: bytes) -> object:
    """Conditions as people write them, sent as a message, asked of an empty market."""
    found = filters_of([filter_to_proto(item) for item in _message(data).split("\n")])
    return Book(1).page(
        now_us=0, work_class="dot-f32", needs_rate=True, filters=found, order_by="price",
        after=None, size=10,
    )  # fmt: skip


def read_order_by(data: bytes) -> object:
    return Book(1).page(
        now_us=0, work_class="dot-f32", needs_rate=True, filters=(), order_by=_message(data),
        after=None, size=10,
    )  # fmt: skip


def read_board_query(data: bytes) -> object:
    """The query string of the price board's list: ``name=value`` lines."""
    lines = [line.partition("=") for line in _message(data).split("\n")]
    form = OfferForm.read({name: value for name, _, value in lines})
    return form.query(), form.link(sort="price")


def _encoded(*texts: str) -> dict[str, bytes]:
    return {f"{at:02}": text.encode() for at, text in enumerate(texts)}


def resume_seeds() -> dict[str, bytes]:
    token = TradeToken(ANY_MODE, 12, "ab")
    return _encoded(str(token), str(BookToken(EXACT, "run", 3)), "trades.dot-f32.0.")


TARIFF = """default = 0.31
[[window]]
days = ["sat", "sun"]
from = 22
to = 6
price = 0.11
"""

TARGETS = (
    Target(
        "ask",
        read_ask,
        lambda: _encoded("0.05", "electricity * 1.3 + 0.02", "max(0.01, min(tariff, hour / 24))"),
        512,
    ),
    Target("tariff", read_tariff, lambda: _encoded(TARIFF, "default = -1", 'default = "0.5"')),
    Target("schedule", read_schedule, lambda: _encoded("22-6", "mon-fri 18-8|sat,sun 0-24"), 256),
    Target("amount", read_amount, lambda: _encoded("1.5", "-$0.000000001", "9223372036"), 128),
    Target("region", read_region, lambda: _encoded("eu-de-berlin", "us"), 256),
    Target(
        "deadline",
        read_deadline,
        lambda: _encoded("Fri 18:00", "90m", "2026-11-27T18:00+02:00", "23:59"),
        128,
    ),
    Target(
        "listen-address",
        read_address,
        lambda: _encoded("127.0.0.1:7443", "[::1]:0", "localhost:1"),
        256,
    ),
    Target(
        "page-token",
        read_page_token,
        lambda: {"given-out": _market()._page_token(QUERY, [1, "offer"]).encode()},
        512,
    ),
    Target("resume-token", read_resume_token, resume_seeds, 256),
    Target(
        "offer-filters",
        read_filters,
        lambda: _encoded(
            "flops_per_watt>=2e10",
            "region=eu\nstate!=busy",
            "suited_for=training",
            "offer~a",
            "price<=1e-320",
        ),
        512,
    ),
    Target("offer-order", read_order_by, lambda: _encoded("price", "-flops_per_watt"), 128),
    Target(
        "board-query",
        read_board_query,
        lambda: _encoded("work_class=f64\nsort=-price\nmemory=8\nprice=0.5\nrows=20", "idle=1"),
        1024,
    ),
)
