"""Live offers as columns: one row an offer, exact integers, and float bounds derived from them.

``exact`` holds what a price is made of, as stated. ``cost`` holds what one unit of each resource
costs on the device, as a float that is never above the true price of it: a work's resources times
these costs, added up, bound its exact price from below (:mod:`.search`). Prices that are
compared or paid are computed from the integers by :meth:`Offer.terms_for`, never from a float.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.market.calibrate import NO_FACTORS, ONE_PPM, SETUP, Factors
from flopmarket.market.offer import PFLOP, SECONDS_PER_HOUR, Offer
from flopmarket.market.predict import DeviceRates
from flopmarket.market.proof import Proof, shown_rate
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.core.matching import Demand

Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MODE_BIT: Mapping[Mode, int] = MappingProxyType({mode: 1 << at for at, mode in enumerate(Mode)})
"""How modes are told in a column."""

CLASSES = len(WORK_CLASSES)
CLASS_COLUMN: Mapping[str, int] = MappingProxyType(
    {work_class: at for at, work_class in enumerate(WORK_CLASSES)}
)
# Columns of `exact` behind the rates of the classes.
BANDWIDTH, LAUNCH, STEP, BUILD, DOWNLOAD, ASK, FACTORS = range(CLASSES, CLASSES + 7)
EXACT_COLUMNS = CLASSES + 7
# Columns of `cost` behind those of the classes: a byte moved, a launch, a step, and of the setup a
# byte fetched and a kernel built.
MOVED, LAUNCHED, STEPPED, FETCHED, BUILT = range(CLASSES, CLASSES + 5)
COST_COLUMNS = CLASSES + 5

NO_RATE_COST = 1e100
"""Cost of what the device cannot do: above every price, and finite, so that none of it is free."""

NO_ROW = 0
"""A row that no offer ever has; it fills what must have a length."""

_FIRST_ROWS = 64
_PFLOP_HOURS = PFLOP / SECONDS_PER_HOUR
_RANK_GAP = 1 << 24
_CACHED_OFFERS = 1 << 16


@dataclass(frozen=True, slots=True)
class Listing:
    """A live offer with the standing of its device: what a row is made of.

    ``seen_us`` is the last sign of life of its worker while ``connected``.
    """

    offer: Offer
    connected: bool
    seen_us: int
    busy: bool
    banned: bool
    verified_segments: int = 0
    rejected_segments: int = 0
    updated_at_us: int = 0
    proof: Proof | None = None
    """What its device proved; None for an unproved one."""


class Codes:
    """Texts as small numbers, in the order in which they first came."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._codes: dict[str, int] = {}

    def of(self, text: str) -> int:
        """The number of a text, a new one if need be."""
        code = self._codes.get(text)
        if code is None:
            code = self._codes[text] = len(self.texts)
            self.texts.append(text)
        return code

    def known(self, text: str) -> int:
        """The number of a text, -1 when it never came."""
        return self._codes.get(text, -1)


class OfferTable:
    """Columns over all offers. Rows are reused; a row without an offer has ``used`` False."""

    def __init__(self, *, requires_proof: bool = False) -> None:
        self.requires_proof = requires_proof
        """Whether an unproved device takes no work."""
        self.size = NO_ROW + 1
        """Rows up to here were used at some time."""
        self.row_of: dict[str, int] = {}
        self.offer_ids: list[str] = [""]
        self.device_ids: list[str] = [""]
        self.accounts, self.keys, self.regions = Codes(), Codes(), Codes()
        self.names, self.drivers, self.profiles, self.sources = Codes(), Codes(), Codes(), Codes()
        self.device_classes = Codes()
        self.device_classes.of("")  # of a device that does not offer class mode
        self._factors: dict[int, Factors] = {0: NO_FACTORS}
        self._factor_count = 0
        self._free: list[int] = []
        self._sorted_ids: list[str] = []
        self._sorted_ranks: list[int] = []
        self._rows_of_key: dict[int, set[int]] = {}
        self._offers: dict[int, Offer] = {}
        self._proofs: dict[int, Proof] = {}
        self._allocate(_FIRST_ROWS)

    def _allocate(self, rows: int) -> None:
        def column(old: str, dtype: type, width: int = 0) -> npt.NDArray[np.generic]:
            # Of the exact figures whole columns are read, of the costs whole rows.
            order: Literal["C", "F"] = "C" if old == "cost" else "F"
            made: npt.NDArray[np.generic] = np.zeros((rows, width) if width else rows, dtype, order)
            known = getattr(self, old, None)
            if known is not None:
                made[: self.size] = known[: self.size]
            return made

        self.exact: Integers = column("exact", np.int64, EXACT_COLUMNS)  # type: ignore[assignment]
        self.cost: Floats = column("cost", np.float64, COST_COLUMNS)  # type: ignore[assignment]
        self.shown: Integers = column("shown", np.int64, CLASSES)  # type: ignore[assignment]
        self.asked: Floats = column("asked", np.float64, CLASSES)  # type: ignore[assignment]
        self.spread = column("spread", np.float64)  # type: ignore[assignment]
        for name in _INTEGERS:
            setattr(self, name, column(name, np.int64))
        for name in _FLAGS:
            setattr(self, name, column(name, np.bool_))

    # Columns, declared for readers and the type checker; `_allocate` makes them.
    memory: Integers
    milliwatts: Integers
    card_price: Integers
    upload: Integers
    account: Integers
    key: Integers
    region: Integers
    name: Integers
    driver: Integers
    profile: Integers
    source: Integers
    modes: Integers
    """Modes that it takes jobs of, a bit each (:data:`MODE_BIT`)."""
    device_class: Integers
    verified: Integers
    rejected: Integers
    updated: Integers
    seen: Integers
    delivered: Integers
    id_rank: Integers
    """Ascends with the offer id."""
    asked: Floats
    """About what 10^15 operations of each class cost; infinite without a rate."""
    spread: Floats
    """No calibration factor of the row is above the ones in :attr:`cost` times this."""
    used: Flags
    connected: Flags
    busy: Flags
    banned: Flags
    unproved: Flags
    shown: Integers
    """Rates of the classes as lists show them: those of ``exact`` times what was delivered."""

    def __len__(self) -> int:
        return len(self.row_of)

    def put(self, listing: Listing) -> int:
        """Add or replace an offer; its row."""
        offer = listing.offer
        row = self.row_of.get(offer.offer_id)
        if row is None:
            row = self._new_row(offer.offer_id)
        else:
            self._rows_of_key[int(self.key[row])].discard(row)
        rates = offer.rates
        exact = self.exact[row]
        exact[:CLASSES] = [rates.flops_per_second.get(name, 0) for name in WORK_CLASSES]
        exact[BANDWIDTH] = rates.bandwidth_bytes_per_second
        exact[LAUNCH] = rates.launch_nanoseconds
        exact[STEP] = rates.step_nanoseconds
        exact[BUILD] = rates.build_milliseconds
        exact[DOWNLOAD] = rates.download_bytes_per_second
        exact[ASK] = offer.ask_nano_per_hour
        self._put_factors(row, offer.factors)
        self.cost[row] = _costs(offer)
        shown = [shown_rate(rate, offer.delivered_ppm) for rate in exact[:CLASSES].tolist()]
        self.shown[row] = shown
        self.asked[row] = [
            offer.ask_nano_per_hour * _PFLOP_HOURS / rate if rate else np.inf for rate in shown
        ]
        self.delivered[row] = offer.delivered_ppm
        self.unproved[row] = listing.proof is None
        if listing.proof is None:
            self._proofs.pop(row, None)
        else:
            self._proofs[row] = listing.proof
        factors = (ONE_PPM, *offer.factors.ppm_by_family.values())
        self.spread[row] = max(factors) / min(factors)
        self.memory[row] = offer.memory_bytes
        self.milliwatts[row] = offer.milliwatts
        self.card_price[row] = offer.card_price_nano
        self.upload[row] = rates.upload_bytes_per_second
        self.account[row] = self.accounts.of(offer.account_id)
        self.region[row] = self.regions.of(offer.region)
        self.name[row] = self.names.of(offer.device_name)
        self.driver[row] = self.drivers.of(offer.driver)
        self.profile[row] = self.profiles.of(offer.profile)
        self.source[row] = self.sources.of(offer.watts_source)
        self.modes[row] = sum(MODE_BIT[mode] for mode in offer.modes)
        self.device_class[row] = self.device_classes.of(offer.device_class)
        self.verified[row] = listing.verified_segments
        self.rejected[row] = listing.rejected_segments
        self.updated[row] = listing.updated_at_us
        self.seen[row] = listing.seen_us
        self.connected[row] = listing.connected
        self.busy[row] = listing.busy
        self.banned[row] = listing.banned
        key = self.keys.of(offer.device_key_id)
        self.key[row] = key
        self._rows_of_key.setdefault(key, set()).add(row)
        self.device_ids[row] = offer.device_id
        self.used[row] = True
        self._offers.pop(row, None)
        return row

    def remove(self, offer_id: str) -> int | None:
        """Forget an offer; the row that it had."""
        row = self.row_of.pop(offer_id, None)
        if row is None:
            return None
        self.used[row] = False
        self._proofs.pop(row, None)
        self._rows_of_key[int(self.key[row])].discard(row)
        self._offers.pop(row, None)
        self._factors.pop(int(self.exact[row, FACTORS]) or -1, None)
        at = bisect_left(self._sorted_ids, offer_id)
        del self._sorted_ids[at], self._sorted_ranks[at]
        self._free.append(row)
        return row

    def rank_of(self, offer_id: str) -> int:
        """Exactly the offers with higher ids have an :attr:`id_rank` above this."""
        at = bisect_right(self._sorted_ids, offer_id)
        return self._sorted_ranks[at - 1] if at else 0

    def rows_of_key(self, device_key_id: str) -> Sequence[int]:
        """Rows of one worker's offers."""
        return sorted(self._rows_of_key.get(self.keys.known(device_key_id), ()))

    def rows(self) -> Rows:
        """All rows with an offer."""
        return np.flatnonzero(self.used[: self.size])

    def present(self, rows: Rows | slice, since_us: int) -> Flags:
        """Which of these are there: connected, with a sign of life since then, not banned."""
        here: Flags = (
            self.used[rows]
            & self.connected[rows]
            & (self.seen[rows] >= since_us)
            & ~self.banned[rows]
        )
        return here

    def tradable(self, rows: Rows | slice, since_us: int) -> Flags:
        """Which of these are there and may take work, idle or not."""
        here = self.present(rows, since_us)
        return here & ~self.unproved[rows] if self.requires_proof else here

    def takes(self, mode: Mode) -> Flags:
        """Which rows may be given jobs of a mode, present or not; in class mode those of classes
        that two accounts list, since nobody else has their work audited."""
        flags: Flags = (self.modes[: self.size] & MODE_BIT[mode]) != 0
        if mode is Mode.CLASS:
            flags &= self._shared_classes()[self.device_class[: self.size]]
        return flags

    def rivals(self, offer: Offer) -> Flags:
        """Which rows take jobs that an offer takes, too."""
        shared = sum(MODE_BIT[mode] for mode in offer.modes if mode is not Mode.CLASS)
        flags: Flags = (self.modes[: self.size] & shared) != 0
        if offer.device_class:
            code = self.device_classes.known(offer.device_class)
            flags |= self.device_class[: self.size] == code
        return flags

    def _shared_classes(self) -> Flags:
        """By class of devices, whether several accounts list it under keys that may act."""
        here = slice(0, self.size)
        rows = np.flatnonzero(self.used[here] & ~self.banned[here] & (self.device_class[here] > 0))
        classes, accounts = self.device_class[rows], self.account[rows]
        first = np.full(len(self.device_classes.texts), len(self.accounts.texts))
        last = np.full(len(self.device_classes.texts), -1)
        np.minimum.at(first, classes, accounts)
        np.maximum.at(last, classes, accounts)
        return first < last

    def rows_of_class(self, device_class: str) -> Rows:
        """Rows of a class of devices whose keys may act, present or not."""
        code = self.device_classes.known(device_class) if device_class else -1
        here = slice(0, self.size)
        return np.flatnonzero(
            self.used[here] & ~self.banned[here] & (self.device_class[here] == code)
        )

    def class_accounts(self, device_class: str) -> frozenset[str]:
        """Accounts that list a device of a class."""
        codes = np.unique(self.account[self.rows_of_class(device_class)])
        return frozenset(self.accounts.texts[code] for code in codes.tolist())

    def alone(self, demand: Demand) -> bool:
        """Whether a work in class mode would find nobody to audit it, or is bound to no class yet:
        such work is not given away.

        Whoever runs it is one account of the class, and another one must be there."""
        if demand.mode is not Mode.CLASS:
            return False
        return len(self.class_accounts(demand.device_class) - {demand.buyer}) < 2

    def proof(self, row: int) -> Proof | None:
        """What the device of a row proved."""
        return self._proofs.get(row)

    def offer(self, row: int) -> Offer:
        """The offer of a row, whole and exact; the same as was put in."""
        known = self._offers.get(row)
        if known is None:
            if len(self._offers) >= _CACHED_OFFERS:
                self._offers.clear()
            known = self._offers[row] = self._made(row)
        return known

    def _made(self, row: int) -> Offer:
        exact = self.exact[row].tolist()
        rates = {name: exact[at] for name, at in CLASS_COLUMN.items() if exact[at]}
        return Offer(
            offer_id=self.offer_ids[row],
            account_id=self.accounts.texts[self.account[row]],
            device_key_id=self.keys.texts[self.key[row]],
            device_id=self.device_ids[row],
            device_name=self.names.texts[self.name[row]],
            driver=self.drivers.texts[self.driver[row]],
            profile=self.profiles.texts[self.profile[row]],
            memory_bytes=int(self.memory[row]),
            rates=DeviceRates(
                MappingProxyType(rates),
                exact[BANDWIDTH],
                exact[LAUNCH],
                exact[STEP],
                exact[BUILD],
                exact[DOWNLOAD],
                int(self.upload[row]),
            ),
            ask_nano_per_hour=exact[ASK],
            milliwatts=int(self.milliwatts[row]),
            watts_source=self.sources.texts[self.source[row]],
            card_price_nano=int(self.card_price[row]),
            region=self.regions.texts[self.region[row]],
            factors=self._factors[exact[FACTORS]],
            delivered_ppm=int(self.delivered[row]),
            modes=tuple(mode for mode in sorted(MODE_BIT) if MODE_BIT[mode] & int(self.modes[row])),
            device_class=self.device_classes.texts[self.device_class[row]],
        )

    def _put_factors(self, row: int, factors: Factors) -> None:
        """Rows whose `exact` is equal are priced equally: other factors, another number."""
        code = int(self.exact[row, FACTORS])
        if self._factors.get(code) == factors:
            return
        self._factors.pop(code or -1, None)
        if factors.ppm_by_family:
            self._factor_count += 1
            code = self._factor_count
            self._factors[code] = factors
        else:
            code = 0
        self.exact[row, FACTORS] = code

    def _new_row(self, offer_id: str) -> int:
        if self._free:
            row = self._free.pop()
        else:
            row = self.size
            if row == len(self.used):
                self._allocate(2 * row)
            self.size += 1
            self.offer_ids.append("")
            self.device_ids.append("")
        self.exact[row, FACTORS] = 0
        self.row_of[offer_id] = row
        self.offer_ids[row] = offer_id
        self.id_rank[row] = self._new_rank(offer_id)
        return row

    def _new_rank(self, offer_id: str) -> int:
        """A number between those of the neighbouring ids; all are dealt anew when there is none."""
        ids, ranks = self._sorted_ids, self._sorted_ranks
        at = bisect_left(ids, offer_id)
        before = ranks[at - 1] if at else 0
        after = ranks[at] if at < len(ranks) else before + 2 * _RANK_GAP
        ids.insert(at, offer_id)
        ranks.insert(at, (before + after) // 2)
        if after - before < 2:
            ranks[:] = range(_RANK_GAP, _RANK_GAP * (len(ids) + 1), _RANK_GAP)
            others = [self.row_of[name] for name in ids]
            self.id_rank[others] = ranks
        return ranks[at]


_INTEGERS: Sequence[str] = (
    "memory", "milliwatts", "card_price", "upload", "account", "key", "region", "name", "driver",
    "profile", "source", "modes", "device_class", "verified", "rejected", "updated", "seen",
    "delivered", "id_rank",
)  # fmt: skip
_FLAGS: Sequence[str] = ("used", "connected", "busy", "banned", "unproved")


def _costs(offer: Offer) -> list[float]:
    """What a unit of each resource costs, in nano-units an hour times picoseconds, calibrated by
    the least factor of the device: never above what the exact price has in it."""
    rates = offer.rates
    ask = float(offer.ask_nano_per_hour)
    step = ask * offer.factors.least_ppm / ONE_PPM
    setup = ask * _least_setup_ppm(offer.factors) / ONE_PPM
    costs = [
        step * 1e12 / rate if (rate := rates.flops_per_second.get(name, 0)) else NO_RATE_COST
        for name in WORK_CLASSES
    ]
    download = rates.download_bytes_per_second
    costs += [
        step * 1e12 / rates.bandwidth_bytes_per_second
        if rates.bandwidth_bytes_per_second
        else NO_RATE_COST,
        step * 1e3 * rates.launch_nanoseconds,
        step * 1e3 * rates.step_nanoseconds,
        setup * 1e12 / download if download else 0.0,
        setup * 1e9 * rates.build_milliseconds,
    ]
    return costs


def _least_setup_ppm(factors: Factors) -> int:
    known: Iterable[int] = (
        ppm for family, ppm in factors.ppm_by_family.items() if family.endswith(SETUP)
    )
    return min(known, default=ONE_PPM)
