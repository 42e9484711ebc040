"""Use cases of the open tape: candles, trades, signed price snapshots. No key is needed."""

from __future__ import annotations

from collections.abc import Sequence

from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.errors import NotFound
from flopmarket.limits import MAX_PRICE_SNAPSHOTS, MAX_STREAM_REPLAY_TRADES, STREAM_SNAPSHOT_TRADES
from flopmarket.market.money import MAX_NANO
from flopmarket.market.snapshot import (
    NO_SNAPSHOT,
    PriceSnapshot,
    SnapshotPrice,
    sign_snapshot,
)
from flopmarket.market.tape import Trade
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.application.context import page_size
from flopmarket_coordinator.application.offers import OfferUseCases
from flopmarket_coordinator.application.types_tape import (
    ClassPrices,
    HistoryPage,
    HistoryQuery,
    NewTrades,
    PriceReport,
    SnapshotFile,
    TradesPage,
    TradesQuery,
)
from flopmarket_coordinator.core.tape import check_class, check_range, check_resolution
from flopmarket_coordinator.store import snapshots, tape
from flopmarket_coordinator.store.engine import Transaction

END_OF_TIME_US = MAX_NANO  # of signed 64 bits
_MARK_CHARACTERS = 8


class TapeUseCases(OfferUseCases):
    """What was paid, and what it is signed with."""

    def prices(self, tx: Transaction, mode: Mode = Mode.EXACT) -> PriceReport:
        """Ask, bid, mid and last trade in a mode of every class that has any of them."""
        report = self.spot(tx, mode)
        spots = {price.work_class: price for price in report.prices}
        last = tape.last_trades(tx, WORK_CLASSES, mode)
        newest, _ = tape.newest(tx)
        return PriceReport(
            as_of_us=report.as_of_us,
            currency=report.currency,
            trades=newest,
            prices=tuple(
                ClassPrices(work_class, spots.get(work_class), last.get(work_class), mode)
                for work_class in WORK_CLASSES
                if work_class in spots or work_class in last
            ),
            mode=mode,
        )

    def history(self, tx: Transaction, query: HistoryQuery) -> HistoryPage:
        """A page of candles, oldest first; a class that never traded in the mode has none."""
        work_class = check_class(query.work_class)
        resolution = check_resolution(query.resolution_seconds)
        check_range(query.from_us, query.to_us)
        size, mode = page_size(query.page_size), query.mode
        bound = f"history/{work_class}/{mode}/{resolution}/{query.from_us}/{query.to_us}"
        after = self._page_position(bound, query.page_token)
        first_us = query.from_us if after is None else after + 1
        found = tape.candles_between(
            tx, work_class, mode, resolution, first_us, query.to_us or END_OF_TIME_US, size + 1
        )
        page = tuple(found[:size])
        more = len(found) > size
        return HistoryPage(
            as_of_us=tx.now_us,
            currency=self._parameters.currency,
            work_class=work_class,
            resolution_seconds=resolution,
            candles=page,
            next_page_token=self._page_token(bound, page[-1].start_us) if more else "",
            kept_since_us=tape.kept_since_us(tx, work_class, mode, resolution),
            mode=mode,
        )

    def trades(self, tx: Transaction, query: TradesQuery) -> TradesPage:
        """A page of trades, oldest first."""
        work_class = check_class(query.work_class) if query.work_class else ""
        check_range(query.from_us, query.to_us)
        size = page_size(query.page_size)
        series = f"{work_class}/{query.mode or ''}"
        bound = f"trades/{series}/{query.offer_id}/{query.from_us}/{query.to_us}"
        after = self._page_position(bound, query.page_token)
        found = tape.trades_between(
            tx,
            work_class=work_class,
            mode=query.mode,
            offer_id=query.offer_id,
            from_us=query.from_us,
            to_us=query.to_us or END_OF_TIME_US,
            after=None if after is None else (after[0], after[1]),
            limit=size + 1,
        )
        page = tuple(found[:size])
        more = len(found) > size
        position = [page[-1].time_us, page[-1].number] if more else []
        token = self._page_token(bound, position) if more else ""
        return TradesPage(tx.now_us, self._parameters.currency, page, token)

    def trades_since(self, tx: Transaction, number: int, limit: int) -> NewTrades:
        """Trades of all classes and modes behind a number, in order, at most ``limit``."""
        found = tape.trades_after(tx, number, limit)
        last = found[-1] if found else tape.trade(tx, number)
        return NewTrades(
            as_of_us=tx.now_us,
            number=last.number if last else number,
            mark=mark_of(last),
            trades=tuple(found),
            gap=False,
        )

    def resume_trades(
        self, tx: Transaction, work_class: str, mode: Mode | None, number: int, mark: str
    ) -> NewTrades | None:
        """What a subscriber of a class and a mode, or of all, missed since trade ``number``.

        None when that is too much to repeat, or when ``mark`` is not :func:`mark_of` the trade: the
        subscriber followed another tape.
        """
        if mark != mark_of(tape.trade(tx, number) if number else None):
            return None
        found = tape.trades_after(tx, number, MAX_STREAM_REPLAY_TRADES + 1, work_class, mode)
        if len(found) > MAX_STREAM_REPLAY_TRADES:
            return None
        return self._new_trades(tx, found, gap=False)

    def newest_trades(
        self, tx: Transaction, work_class: str, mode: Mode | None = None, *, gap: bool
    ) -> NewTrades:
        """What a new stream begins with."""
        found = tape.newest_trades(tx, STREAM_SNAPSHOT_TRADES, work_class, mode)
        return self._new_trades(tx, found, gap=gap)

    def _new_trades(self, tx: Transaction, found: Sequence[Trade], *, gap: bool) -> NewTrades:
        number, _ = tape.newest(tx)
        mark = mark_of(tape.trade(tx, number))
        return NewTrades(tx.now_us, number, mark, tuple(found), gap)

    def take_snapshot(self, tx: Transaction) -> int:
        """Sign the prices of this instant in exact mode; the snapshot's number."""
        before = snapshots.newest(tx)
        trades, tape_digest = tape.newest(tx)
        report = self.prices(tx)
        snapshot = PriceSnapshot(
            number=before.number + 1 if before else 1,
            as_of_us=tx.now_us,
            currency=report.currency,
            coordinator_key=self._key.public,
            previous=before.digest if before else NO_SNAPSHOT,
            trades=trades,
            tape_digest=tape_digest,
            prices=tuple(_signed(price) for price in report.prices),
        )
        envelope = sign_snapshot(snapshot, self._key)
        snapshots.add(tx, snapshot.number, tx.now_us, snapshot.digest, envelope)
        snapshots.drop_before(tx, snapshot.number - MAX_PRICE_SNAPSHOTS + 1)
        return snapshot.number

    def snapshot(self, tx: Transaction, number: int) -> SnapshotFile:
        """A signed snapshot, the newest for 0; ``SNAPSHOT_UNKNOWN`` when there is none."""
        found = snapshots.get(tx, number) if number else snapshots.newest(tx)
        oldest = snapshots.oldest_number(tx)
        if found is None:
            raise NotFound(
                f"there is no snapshot {number or 'yet'}",
                code="SNAPSHOT_UNKNOWN",
                hint=f"the oldest kept is {oldest}" if oldest else "ask again in a few minutes",
                details={"number": str(number), "oldest_number": str(oldest)},
            )
        return SnapshotFile(tx.now_us, found.number, oldest, found.envelope)


def mark_of(trade: Trade | None) -> str:
    """A few characters that tell a tape's trade of some number from another tape's."""
    return trade.commitment_digest.hex()[:_MARK_CHARACTERS] if trade else ""


def _signed(price: ClassPrices) -> SnapshotPrice:
    spot, last = price.spot, price.last
    return SnapshotPrice(
        work_class=price.work_class,
        ask_nano=spot.per_pflop_nano if spot else None,
        bid_nano=spot.bid_nano if spot else None,
        mid_nano=price.mid_nano,
        last_nano=last.per_pflop_nano if last else None,
        last_trade_us=max(0, last.time_us) if last else 0,
        offers=spot.offers if spot else 0,
        orders=spot.orders if spot else 0,
    )
