"""Messages of ``StreamTrades``, and the tokens that say where a subscriber was."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.errors import InvalidInput
from flopmarket.v1 import market_pb2
from flopmarket_coordinator.application.types_tape import NewTrades
from flopmarket_coordinator.rpc import convert_market
from flopmarket_coordinator.rpc.series import Series


@dataclass(frozen=True, slots=True)
class TradeToken:
    """Behind trade ``number``, which had this ``mark``, of a stream of this series."""

    series: Series
    number: int
    mark: str

    def __str__(self) -> str:
        return f"trades.{self.series}.{self.number}.{self.mark}"

    @classmethod
    def parse(cls, text: str, series: Series) -> TradeToken | None:
        """The token of a request, None without one; ``RESUME_TOKEN_INVALID`` otherwise."""
        if not text:
            return None
        stream, name, number, mark = fields(text, 4)
        if stream != "trades" or name != str(series):
            raise bad_token("it belongs to another stream")
        value = count(number)
        if bool(value) != bool(mark):
            raise bad_token("it was not given out here")
        return cls(series, value, mark)


def trades_message(new: NewTrades, series: Series) -> market_pb2.StreamTradesResponse | None:
    """New trades for subscribers of a series; None when none is of it."""
    mine = [trade for trade in new.trades if series.has(trade)]
    if not mine:
        return None
    batch = market_pb2.TradeBatch(trades=[convert_market.trade(trade) for trade in mine])
    return market_pb2.StreamTradesResponse(
        as_of_us=new.as_of_us,
        sequence=new.number,
        resume_token=_token(new, series),
        batch=batch,
    )


def opening_message(new: NewTrades, series: Series) -> market_pb2.StreamTradesResponse:
    """The first message of a stream that begins, or that cannot go on where it was."""
    snapshot = market_pb2.TradesSnapshot(
        trades=[convert_market.trade(trade) for trade in new.trades], gap=new.gap
    )
    return market_pb2.StreamTradesResponse(
        as_of_us=new.as_of_us,
        sequence=new.number,
        resume_token=_token(new, series),
        snapshot=snapshot,
    )


def alive_message(as_of_us: int, sequence: int, token: str) -> market_pb2.StreamTradesResponse:
    """Nothing happened since the last message."""
    return market_pb2.StreamTradesResponse(
        as_of_us=as_of_us, sequence=sequence, resume_token=token, alive=market_pb2.StreamAlive()
    )


def behind(
    message: market_pb2.StreamTradesResponse, number: int
) -> market_pb2.StreamTradesResponse:
    """The message without the trades up to a number."""
    left = [trade for trade in message.batch.trades if trade.number > number]
    return market_pb2.StreamTradesResponse(
        as_of_us=message.as_of_us,
        sequence=message.sequence,
        resume_token=message.resume_token,
        batch=market_pb2.TradeBatch(trades=left),
    )


def _token(new: NewTrades, series: Series) -> str:
    return str(TradeToken(series, new.number, new.mark))


def fields(text: str, expected: int) -> list[str]:
    """Parts of a token."""
    parts = text.split(".")
    if len(parts) != expected:
        raise bad_token("it was not given out here")
    return parts


def count(text: str) -> int:
    """A number of a token."""
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise bad_token("it was not given out here")
    return int(text)


def bad_token(why: str) -> InvalidInput:
    """``RESUME_TOKEN_INVALID``."""
    return InvalidInput(
        f"the resume token is of no use: {why}",
        code="RESUME_TOKEN_INVALID",
        hint="begin without one",
    )
