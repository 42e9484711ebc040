"""What a reader asked for: query strings into :class:`OfferQuery` and back into links."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from urllib.parse import urlencode

from flopmarket.errors import InvalidInput
from flopmarket.limits import BOARD_PAGE_ROWS, MAX_BOARD_PAGE_ROWS, MAX_REQUEST_TEXT_CHARACTERS
from flopmarket.market.money import parse_nano
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.web.model import OfferQuery

GIB = 1 << 30
GIGA = 10**9
ORDERS = (
    "price",
    "ask_per_hour",
    "flops",
    "flops_per_dollar",
    "flops_per_watt",
    "flops_per_card_dollar",
    "memory",
    "bandwidth",
    "reliability",
)
ORDER_WORDS = {
    "price": "price per PFLOP",
    "ask_per_hour": "ask per hour",
    "flops": "rate",
    "flops_per_dollar": "FLOP for the money",
    "flops_per_watt": "FLOPS per watt",
    "flops_per_card_dollar": "FLOPS per card price",
    "memory": "memory",
    "bandwidth": "bandwidth",
    "reliability": "right segments",
}
BEST_FIRST_IS_DESCENDING = frozenset(ORDERS) - {"price", "ask_per_hour"}
SUITED = ("training", "inference")
DEFAULT_CLASS = "dot-f32"


@dataclass(frozen=True, slots=True)
class OfferForm:
    """The filter form as typed: texts, so that it is shown again as it was sent."""

    work_class: str = DEFAULT_CLASS
    sort: str = "price"
    memory: str = ""
    price: str = ""
    per_watt: str = ""
    reliability: str = ""
    region: str = ""
    suited: str = ""
    device: str = ""
    idle: str = ""
    mode: str = ""
    page: str = ""
    rows: str = ""

    @classmethod
    def read(cls, parameters: Mapping[str, str]) -> OfferForm:
        """From a query string. Unknown names are refused: a typo must not widen a list."""
        unknown = sorted(set(parameters) - set(cls.__slots__))
        if unknown:
            raise InvalidInput(
                f"unknown parameter {unknown[0][:40]!r}",
                code="BOARD_PARAMETER",
                hint=f"parameters are {', '.join(cls.__slots__)}",
            )
        return cls(**{key: value.strip() for key, value in parameters.items() if value.strip()})

    def query(self) -> OfferQuery:
        """The question to the coordinator; InvalidInput names the field that is wrong."""
        if self.sort.removeprefix("-") not in ORDERS:
            raise InvalidInput(
                f"cannot sort by {self.sort[:40]!r}",
                code="BOARD_PARAMETER",
                hint=f"sort by one of {', '.join(ORDERS)}; a leading '-' reverses",
            )
        if self.suited not in ("", *SUITED):
            raise InvalidInput(f"suited is one of {', '.join(SUITED)}", code="BOARD_PARAMETER")
        if self.mode not in ("", *Mode):
            raise InvalidInput(f"mode is one of {', '.join(Mode)}", code="BOARD_PARAMETER")
        memory = _number("memory", self.memory)
        per_watt = _number("per_watt", self.per_watt)
        reliability = _number("reliability", self.reliability, most=100)
        rows = _number("rows", self.rows, most=MAX_BOARD_PAGE_ROWS)
        return OfferQuery(
            work_class=_text("work_class", self.work_class),
            order_by=self.sort,
            page_size=max(1, int(rows)) if rows is not None else BOARD_PAGE_ROWS,
            page_token=_text("page", self.page),
            min_memory_bytes=None if memory is None else int(memory * GIB),
            max_price_nano=parse_nano(self.price) if self.price else None,
            min_flops_per_watt=None if per_watt is None else float(per_watt * GIGA),
            min_reliability=None if reliability is None else float(reliability / 100),
            region=_text("region", self.region),
            suited_for=self.suited,
            device_name=_text("device", self.device),
            idle_only=bool(self.idle),
            mode=self.mode,
        )

    def link(self, **changes: str) -> str:
        """The query string of this form with some fields changed; a change starts at page one."""
        default = OfferForm()
        fields = {name: getattr(self, name) for name in self.__slots__}
        fields.update(page="", **changes) if "page" not in changes else fields.update(changes)
        kept = {n: v for n, v in fields.items() if v and v != getattr(default, n)}
        return "?" + urlencode(kept) if kept else "?"

    def sorted_by(self, order: str) -> str:
        """The link that a column's heading has: best first, then the other way round."""
        best = _best(order)
        other = best.removeprefix("-") if best.startswith("-") else f"-{best}"
        return self.link(sort=other if self.sort == best else best)

    def choices(self) -> list[tuple[str, str]]:
        """Ways to sort, best first, and the present one where it is the other way round."""
        found = [(_best(order), ORDER_WORDS[order]) for order in ORDERS]
        if self.sort not in dict(found):
            found.append((self.sort, f"{ORDER_WORDS[self.sort.removeprefix('-')]}, reversed"))
        return found

    def direction(self, order: str) -> str:
        """``aria-sort`` of a column; empty when the list is sorted by another."""
        if self.sort.removeprefix("-") != order:
            return ""
        return "descending" if self.sort.startswith("-") else "ascending"


def _best(order: str) -> str:
    return f"-{order}" if order in BEST_FIRST_IS_DESCENDING else order


def _text(field: str, text: str) -> str:
    if len(text) > MAX_REQUEST_TEXT_CHARACTERS:
        raise InvalidInput(
            f"{field} has more than {MAX_REQUEST_TEXT_CHARACTERS} characters",
            code="BOARD_PARAMETER",
        )
    return text


def _number(field: str, text: str, most: int = 10**9) -> Decimal | None:
    if not text:
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or not 0 <= value <= most:
        raise InvalidInput(
            f"{field} is a number from 0 to {most}, not {text[:40]!r}", code="BOARD_PARAMETER"
        )
    return value
