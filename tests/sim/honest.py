"""``python -m tests.sim.honest --segments 1000000``: nobody honest is ever accused.

Everybody is honest and unlucky: messages are late, doubled or lost, auditors decline and lapse,
workers drop sessions and sometimes never open. Each segment goes through the pure functions
that decide in the coordinator: its price against the stake gives the rate
(:func:`~flopmarket.trust.audit_policy.rate_ppm`), a hash chain draws
(:mod:`~flopmarket.trust.challenge`), the blind audit is played event by event
(:mod:`~flopmarket.trust.sealing`, with real seals), the house judges what nobody audited
(:func:`~flopmarket_coordinator.core.verification.judge`), and silences add up
(:func:`~flopmarket.trust.audit_policy.after_silence`). Bits are pretended (each party computes them
for itself). Not exercised: the application around these functions, which ``python -m tests.sim``
plays, and real kernels, which the engine's tests compare.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from flopmarket.errors import Conflict
from flopmarket.trust import sealing
from flopmarket.trust.audit_policy import RULES, Consequence, Level, after_silence, rate_ppm
from flopmarket.trust.challenge import Chain, ChainName, Purpose, auditors, draw, is_drawn
from flopmarket.trust.sealing import (
    AuditorOpened,
    Claim,
    Declined,
    Event,
    Exchange,
    Failed,
    InnerSecret,
    Outcome,
    Phase,
    Sealed,
    Taken,
    TimePassed,
    WorkerOpened,
    seal_inner,
)
from flopmarket_coordinator.core.verification import Claimed, Recomputed, VerdictCode, judge
from tests.sim import arithmetic
from tests.sim.arithmetic import named
from tests.sim.schedule import Dice

UNITS = 1_000
"""Segments of one device; the next thousand are another's."""
PRICE_NANO = 1_000_000
STEPS = 3
NEVER_OPENS = 0.002
"""Chance that a worker does not open in a whole day, drawn or not."""


@dataclass(slots=True)
class Tally:
    """What came of all segments."""

    segments: int = 0
    audited: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    accusations: int = 0
    slashed: int = 0


class Device:
    """An honest device from its first day."""

    def __init__(self, number: int, dice: Dice) -> None:
        self.name = f"device {number}"
        self.key_id = named(self.name).hex()
        self.dice = dice
        self.job = named(f"job of {self.name}")
        self.root = named(f"start of {self.name}")
        self.chain = Chain(named("secret"), ChainName(self.name, Purpose.AUDIT), UNITS)
        self.candidates = tuple(named(f"auditor {at}").hex() for at in range(6))
        self.streak = 0
        self.silences: list[int] = []

    def unit(self, unit: int, tally: Tally) -> None:
        """One segment, from its work to its verdict."""
        first = unit * STEPS
        ran = arithmetic.run(self.job, self.root, first, STEPS)
        salt = named(f"{self.name} {unit}")
        secret = InnerSecret(self.key_id, salt, ran.inner)
        claim = Claim(self.key_id, ran.root_after, ran.outputs_root, seal_inner(secret))
        stake = PRICE_NANO * min(unit, RULES.bond_units + RULES.held_units)
        rate = rate_ppm(RULES, Level.DETER, self.streak, PRICE_NANO, stake)
        x = draw(Purpose.AUDIT, self.chain.value(unit + 1), claim.sealed_inner)
        tally.segments += 1
        if is_drawn(x, rate):
            tally.audited += 1
            order = tuple(auditors(x, RULES, self.candidates, ("house",)))
            self._audited(unit, first, claim, secret, order, tally)
        self.root = ran.root_after

    def _audited(
        self,
        unit: int,
        first: int,
        claim: Claim,
        secret: InnerSecret,
        order: tuple[str, ...],
        tally: Tally,
    ) -> None:
        outside = order[: order.index("house")] if "house" in order else order
        again = arithmetic.run(self.job, self.root, first, STEPS)
        outcome = Outcome.NO_AUDITOR
        if outside:
            outcome = self._exchange(claim, secret, outside, again, unit)
        tally.outcomes[outcome] += 1
        if outcome is Outcome.EQUAL:
            self.streak += 1
            return
        found = Recomputed(again.root_after, again.outputs_root, again.outputs_root, None)
        code = judge(Claimed(claim.state_root, claim.outputs_root, "file", ""), found)
        differs = outcome in (Outcome.ROOTS_DIFFER, Outcome.INNER_DIFFERS)
        if code is not VerdictCode.EQUAL or differs:
            tally.accusations += 1
        if outcome in (Outcome.WORKER_SILENT, Outcome.UNANSWERED_DIFFERENCE):
            wrong = code is not VerdictCode.EQUAL
            price = after_silence(RULES, unit, self.silences, roots_differ=wrong)
            tally.slashed += price is Consequence.SLASH
            self.silences.append(unit)
        else:
            self.streak += 1

    def _exchange(
        self,
        claim: Claim,
        secret: InnerSecret,
        order: tuple[str, ...],
        again: arithmetic.Ran,
        unit: int,
    ) -> Outcome:
        """A blind audit among the honest, with everything that goes wrong on the way."""
        dice, now_us = self.dice, 0
        opens = not dice.chance(NEVER_OPENS)
        going = sealing.begin(f"audit {unit}", claim, order, 1_000, now_us)
        while going.phase is not Phase.ENDED:
            luck = dice.random()
            # An answer comes too late, or never; a worker has a whole day for its own.
            if luck < 0.05 and going.phase is not Phase.WORKER_OPENS:
                now_us = going.deadline_us + 1
                going = self._told(going, TimePassed(), now_us)
                continue
            now_us += 1_000_000
            event = self._next(going, secret, again, opens, luck)
            if event is None:
                now_us = going.deadline_us + 1
                event = TimePassed()
            before = going
            going = self._told(going, event, now_us)
            if luck > 0.95 and before.phase is not going.phase:
                going = self._told(going, event, now_us)  # the same message again
        assert going.outcome is not None
        return going.outcome

    def _told(self, going: Exchange, event: Event, now_us: int) -> Exchange:
        """What does not fit is refused and changes nothing."""
        try:
            return sealing.handle(going, event, now_us)[0]
        except Conflict:
            return going

    def _next(
        self,
        going: Exchange,
        secret: InnerSecret,
        again: arithmetic.Ran,
        opens: bool,
        luck: float,
    ) -> Event | None:
        """What the party that is waited for does."""
        key = going.auditor
        answer = InnerSecret(key, named(f"salt {key} {going.task_id}"), again.inner)
        match going.phase:
            case Phase.ASKING:
                return Declined() if luck < 0.15 else Taken(1_000_000)
            case Phase.SEALING:
                if luck < 0.08:
                    return Failed()
                if luck < 0.12:
                    return Declined()
                sealed = seal_inner(answer)
                return Sealed(Claim(key, again.root_after, again.outputs_root, sealed))
            case Phase.AUDITOR_OPENS:
                return AuditorOpened(answer)
            case Phase.WORKER_OPENS:
                return WorkerOpened(secret) if opens else None
            case _:
                return None


def play(segments: int, seed: int = 0) -> Tally:
    """So many segments of honest devices, ``UNITS`` each."""
    tally = Tally()
    for number in range(-(-segments // UNITS)):
        device = Device(number, Dice(seed, f"honest {number}"))
        for unit in range(min(UNITS, segments - tally.segments)):
            device.unit(unit, tally)
    return tally


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.honest", description=__doc__)
    parser.add_argument("--segments", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began = time.process_time()
    tally = play(given.segments, given.seed)
    print(
        f"{tally.segments} segments, {tally.audited} audited, "
        f"{time.process_time() - began:.0f} s of processor time"
    )
    for name, count in sorted(tally.outcomes.items()):
        print(f"  {count:7d}  {name}")
    print(f"accused: {tally.accusations}, slashed for silence: {tally.slashed}")
    return 1 if tally.accusations or tally.slashed else 0


if __name__ == "__main__":
    sys.exit(main())
