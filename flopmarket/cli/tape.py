"""``flop prices trades``, ``watch``, ``snapshot``, ``verify``: the tape, live and signed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flopmarket.cli.mode_options import DEFAULT_MODE, MODES
from flopmarket.cli.options import (
    connect,
    connection_options,
    json_option,
    output,
    trusted_key_option,
    write_file,
)
from flopmarket.cli.output import Output, instant, scaled
from flopmarket.cli.tape_options import (
    amount,
    any_mode_option,
    class_option,
    csv_option,
    range_of,
    range_options,
    write_csv,
)

if TYPE_CHECKING:
    from flopmarket.client.client import Client
    from flopmarket.client.results_prices import Book, BookMessage, TradeInfo
    from flopmarket.market.snapshot import PriceSnapshot, VerifiedSnapshot

_COLUMNS = (
    ">number",
    "settled (UTC)",
    "class",
    ">per PFLOP",
    ">PFLOP",
    ">paid",
    ">joules",
    "device",
    "mode",
)


@click.command()
@class_option
@any_mode_option
@click.option("--offer", "offer_id", default="", metavar="ID", help="Only trades of this offer.")
@range_options
@csv_option
@json_option
@connection_options
def trades(
    work_class: str,
    mode: str | None,
    offer_id: str,
    since: str,
    until: str,
    as_csv: bool,
    as_json: bool,
    **connection: Any,
) -> None:
    """Past trades, oldest first: segments that were verified and paid."""
    since_us, until_us = range_of(since, until)
    out = output(as_json)
    with connect(connection, with_key=False) as client:
        currency = client.coordinator().currency
        found = client.trades(work_class, offer_id, since_us, until_us, mode or "")
        if as_csv:
            write_csv(_csv_header(currency), map(_csv_row, found))
            return
        out.listing(found, _COLUMNS, _row, "no trades in this time")


@click.command()
@class_option
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default=None,
    help="Only trades in this mode, all by default; or its book, exact by default.",
)
@click.option("--book", "of_book", is_flag=True, help="Follow the order book, not the trades.")
@click.option("--resume", "resume_token", default="", metavar="TOKEN", help="Go on behind it.")
@click.option("--count", type=click.IntRange(1), help="End after so many messages.")
@json_option
@connection_options
def watch(
    work_class: str,
    mode: str | None,
    of_book: bool,
    resume_token: str,
    count: int | None,
    as_json: bool,
    **connection: Any,
) -> None:
    """Trades, or the book, as they change; ends with Ctrl-C.

    With --json every line has a resume_token: nothing is missed when --resume gives the last one.
    """
    out = output(as_json)
    with connect(connection, with_key=False) as client:
        if of_book:
            _watch_book(client, out, work_class, mode or DEFAULT_MODE, resume_token, count)
        else:
            _watch_trades(client, out, work_class, mode or "", resume_token, count)


def _watch_trades(
    client: Client, out: Output, work_class: str, mode: str, token: str, count: int | None
) -> None:
    for message in islice(client.watch_trades(work_class, token, mode), count):
        if out.as_json:
            out.record(message)
            continue
        if message.gap:
            out.say("some trades before these were missed; see `flop prices trades`")
        for trade in message.trades:
            out.line("  ".join(_row(trade)))


def _watch_book(
    client: Client, out: Output, work_class: str, mode: str, token: str, count: int | None
) -> None:
    book: Book | None = None
    for message in islice(client.watch_book(work_class, token, mode), count):
        if out.as_json:
            out.record(message)
            continue
        if book is None:
            # A resumed stream begins with changes: what they change is asked for once.
            book = client.book(work_class, mode=mode)
        book = book.after(message)
        if message.is_snapshot or message.is_change:
            out.line(_top(book, message))


def _top(book: Book, message: BookMessage) -> str:
    ask = str(book.asks[0].per_pflop) if book.asks else "-"
    bid = str(book.bids[0].per_pflop) if book.bids else "-"
    return (
        f"{instant(book.as_of_us)}  #{message.sequence}  {book.work_class}  {book.mode}  "
        f"bid {bid}  ask {ask}  {book.offers} offers  {book.orders} orders"
    )


@click.command()
@click.option("--number", type=click.IntRange(0), default=0, help="Which; the newest by default.")
@click.option(
    "--output", "-o", "destination", type=click.Path(path_type=Path), help="Where to keep the file."
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@json_option
@connection_options
def snapshot(
    number: int, destination: Path | None, force: bool, as_json: bool, **connection: Any
) -> None:
    """The newest signed price snapshot; `flop prices verify` checks its file offline."""
    from flopmarket.market.snapshot import verify_snapshot

    with connect(connection, with_key=False) as client:
        file = client.snapshot(number)
        key = client.coordinator().public_key
    found = verify_snapshot(file, key)
    out = output(as_json)
    if destination is not None:
        write_file(destination, file, force=force)
        out.say(f"wrote {destination}")
    _print_snapshot(out, found, trusted=True)


@click.command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@trusted_key_option
@json_option
def verify(files: tuple[Path, ...], key: str | None, as_json: bool) -> None:
    """Check signed price snapshots offline, and that they follow one another.

    Exit code 1 when they prove nothing, or contradict each other.
    """
    from flopmarket.cli.receipt import trusted_key
    from flopmarket.errors import FlopmarketError, LimitExceeded
    from flopmarket.limits import MAX_SNAPSHOT_BYTES, MAX_SNAPSHOT_FILES
    from flopmarket.market.snapshot import check_chain, verify_snapshot

    out = output(as_json)
    if len(files) > MAX_SNAPSHOT_FILES:
        raise LimitExceeded(f"{len(files)} files, at most {MAX_SNAPSHOT_FILES} at once")
    trusted, key_id = trusted_key(key)
    found: list[VerifiedSnapshot] = []
    file = files[0]
    try:
        for file in files:
            if file.stat().st_size > MAX_SNAPSHOT_BYTES:
                raise LimitExceeded(f"larger than {MAX_SNAPSHOT_BYTES} bytes")
            checked = verify_snapshot(file.read_bytes(), trusted)
            signer = checked.snapshot.coordinator_key
            if key_id and key_id not in (signer.key_id, signer.raw.hex()):
                raise FlopmarketError(
                    f"signed by {signer.key_id}, not by {key_id}", code="SNAPSHOT_WRONG_KEY"
                )
            found.append(checked)
        found.sort(key=lambda item: item.snapshot.number)
        check_chain([item.snapshot for item in found])
    except OSError as error:
        raise FlopmarketError(f"{file}: {error.strerror}", code="SNAPSHOT_UNREADABLE") from None
    except FlopmarketError as error:
        if as_json:
            out.record({"valid": False, "code": error.code, "message": error.message})
        raise FlopmarketError(
            f"{file} is no valid price snapshot: {error.message}", code=str(error.code)
        ) from error
    for item in found:
        _print_snapshot(out, item, trusted=item.trusted or bool(key_id))
    if not (trusted or key_id):
        out.say("anybody could have made this file; name the coordinator's key with --key")


def _print_snapshot(out: Output, found: VerifiedSnapshot, *, trusted: bool) -> None:
    from flopmarket.client.money import Money

    stated = found.snapshot
    if out.as_json:
        out.record(_as_json(stated, trusted=trusted))
        return

    def price(nano: int | None) -> str:
        return "-" if nano is None else str(Money(nano, stated.currency))

    out.line(
        "valid snapshot" if trusted else "consistent snapshot, not checked against a trusted key"
    )
    out.fields(
        [
            ("number", str(stated.number)),
            ("as of", f"{instant(stated.as_of_us)} UTC"),
            ("signed by", stated.coordinator_key.key_id),
            ("digest", stated.digest.hex()),
            ("after", stated.previous.hex()),
            ("trades so far", str(stated.trades)),
            ("tape digest", stated.tape_digest.hex()),
        ]
    )
    rows = [
        (
            item.work_class,
            *(
                price(nano)
                for nano in (item.ask_nano, item.bid_nano, item.mid_nano, item.last_nano)
            ),
            str(item.offers),
            str(item.orders),
        )
        for item in stated.prices
    ]
    columns = ("class", ">ask per PFLOP", ">bid", ">mid", ">last", ">offers", ">orders")
    out.table(columns, rows, "the market was empty")


def _as_json(stated: PriceSnapshot, *, trusted: bool) -> dict[str, object]:
    return {
        "valid": True,
        "trusted": trusted,
        "number": stated.number,
        "as_of_us": stated.as_of_us,
        "currency": stated.currency,
        "coordinator_key_id": stated.coordinator_key.key_id,
        "digest": stated.digest,
        "previous": stated.previous,
        "trades": stated.trades,
        "tape_digest": stated.tape_digest,
        "prices": stated.prices,
    }


def _row(trade: TradeInfo) -> tuple[str, ...]:
    return (
        str(trade.number),
        instant(trade.time_us),
        trade.work_class,
        str(trade.per_pflop),
        f"{trade.pflop:.4g}",
        str(trade.price),
        scaled(trade.joules, "J") if trade.joules else "unknown",
        trade.device_name,
        trade.mode,
    )


def _csv_header(currency: str) -> list[str]:
    return [
        "number",
        "settled_UTC",
        "settled_us",
        "work_class",
        f"price_{currency}_per_PFLOP",
        "volume_PFLOP",
        "volume_FLOP",
        f"paid_{currency}",
        "energy_J",
        "energy_source",
        "offer",
        "device",
        "commitment_digest",
        "mode",
    ]


def _csv_row(trade: TradeInfo) -> Sequence[str]:
    return [
        str(trade.number),
        instant(trade.time_us),
        str(trade.time_us),
        trade.work_class,
        amount(trade.per_pflop),
        repr(trade.pflop),
        str(trade.flops),
        amount(trade.price),
        repr(trade.joules),
        trade.joules_source,
        trade.offer_id,
        _harmless(trade.device_name),
        trade.commitment_digest.hex(),
        trade.mode,
    ]


def _harmless(text: str) -> str:
    """A stranger's text as a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
