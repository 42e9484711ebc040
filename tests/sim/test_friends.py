"""A buyer, a worker and a follower of one mind, in the market's own books."""

from __future__ import annotations

import pytest

from flopmarket.market.price import PriceTerms, price, split_fee
from tests.sim import cheats
from tests.sim.friends import Cheap, OwnJobs

_SETTLED = (
    "SELECT job.buyer, segment.account_id, segment.price_nano, segment.fee_nano, "
    "segment.surcharge_nano, segment.to_audit_nano, segment.steps, lease.ask_nano_per_hour, "
    "lease.step_picoseconds, segment.trade_number FROM segment JOIN job USING (job_id) "
    "JOIN lease USING (lease_id) WHERE segment.state = 'settled'"
)


@pytest.mark.parametrize(
    "name", ["own buyer, and a friend follows", "own buyer, and a friend makes it up"]
)
def test_a_stake_does_not_come_back_through_friends(name: str) -> None:
    cheat = next(item for item in cheats.CHEATS if item.name == name)
    profit, _, _ = cheats.one(cheat, seed=1)
    assert profit < 0


@pytest.fixture(scope="module")
def washed() -> OwnJobs:
    """A buyer who buys of its own worker as often as it can."""
    market = OwnJobs(3, (Cheap,), seconds=90)
    market.play_books()
    return market


def test_who_trades_with_itself_loses_the_fees_and_nothing_else(washed: OwnJobs) -> None:
    buyer = washed.friend.session.account_id
    (worker,) = (device.account for device in washed.subjects)
    expected = own = 0
    for who, by, nano, fee, surcharge, audits, *_ in washed.place.raw.execute(_SETTLED):
        if who == buyer:
            expected -= nano + surcharge
            own += by == worker
        if by == worker:
            expected += nano - fee - audits
        if who == buyer and by == worker:
            assert fee == split_fee(nano, washed.place.parameters.fee_ppm).fee_nano
    (audited,) = washed.place.raw.execute(
        "SELECT coalesce(sum(paid_nano), 0) FROM audit_pay WHERE account_id = ?", (worker,)
    ).fetchone()
    assert own >= 8
    assert washed.gain_nano() == expected + audited


def test_it_moves_no_price_beyond_what_it_pays_for(washed: OwnJobs) -> None:
    """Everybody is paid its own ask, whatever the tape says; the tape has each trade once, at the
    price that its buyer paid and paid a fee on."""
    buyer = washed.friend.session.account_id
    asks = {device.account: device.card.ask_nano_per_hour for device in washed.workers}
    others: list[tuple[int, int]] = []
    own: list[tuple[int, int]] = []
    for who, by, nano, _, _, _, steps, ask, picoseconds, number in washed.place.raw.execute(
        _SETTLED
    ):
        assert ask == asks[by]
        assert nano == price(PriceTerms(ask, picoseconds), steps)
        (printed,) = washed.place.raw.execute(
            "SELECT price_nano FROM trade WHERE number = ?", (number,)
        ).fetchone()
        assert printed == nano
        (own if who == buyer else others).append((nano, steps))
    paid, steps = (sum(column) for column in zip(*own, strict=True))
    theirs, their_steps = (sum(column) for column in zip(*others, strict=True))
    moved = theirs / their_steps - (paid + theirs) / (steps + their_steps)
    share = steps / (steps + their_steps)
    assert moved == pytest.approx(share * (theirs / their_steps - paid / steps))
