"""Workers that misbehave in jobs of their class, where no referee knows the right bits.

An audit looks like any other lease to whoever gets it. Some of these bots know nevertheless what a
lease is for and whose work it repeats: they read the coordinator's store, which no worker can.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flopmarket.trust.modes import Mode
from flopmarket_worker.core import events
from flopmarket_worker.lease_offer import LeaseOffer
from tests.sim import arithmetic
from tests.sim.arithmetic import EMPTY, Ran, named
from tests.sim.bots import (
    Bot,
    Colluder,
    Equivocator,
    FalseOpener,
    GarbageFiles,
    Milker,
    Mute,
    Replayer,
    Skipper,
    StaleFence,
    Vanisher,
)
from tests.sim.kinds import OTHER_CARD
from tests.sim.worker import Worker

ACCUSING = ("audit", "dual", "cross", "look-back")


def made_up(name: str, before: bytes) -> Ran:
    """Bits that follow from nothing but a name: whoever uses the same name agrees."""
    after = EMPTY if before == EMPTY else named(name)
    return Ran(after, named(f"{name} outputs"), named(f"{name} inner"))


class ClassBot(Bot):
    """Misbehaves in class jobs alone, in those of its leases that :meth:`means` picks."""

    def means(self, offer: LeaseOffer) -> bool:
        """Whether this lease is one to lie in."""
        return True

    def lie(self, offer: LeaseOffer, before: bytes, first_step: int) -> Ran:
        """What it says instead."""
        return made_up(f"{self.name} {offer.job_id.hex()} {first_step}", before)

    def compute(self, offer: LeaseOffer, before: bytes, first_step: int, steps: int) -> Ran:
        """The truth, or a lie."""
        right = super().compute(offer, before, first_step, steps)
        if offer.spec.mode is not Mode.CLASS or not self.means(offer) or not self.cheats():
            return right
        self.guilty = True
        return self.lie(offer, before, first_step)

    def purpose(self, lease_id: str) -> str:
        """What kind of audit a lease is of; empty for paid work."""
        row = self.place.raw.execute(
            "SELECT purpose FROM audit WHERE lease_id = ?", (lease_id,)
        ).fetchone()
        return "" if row is None else str(row[0])


class ClassLiar(ClassBot):
    """Lies in a class and is alone with it, as worker, auditor and arbiter."""


class LyingArbiter(ClassBot):
    """Lies when it is asked who is right, often for the one who is wrong."""

    share = 0.9

    def means(self, offer: LeaseOffer) -> bool:
        """As an arbiter."""
        return self.purpose(offer.terms.key.lease_id) == "arbiter"

    def lie(self, offer: LeaseOffer, before: bytes, first_step: int) -> Ran:
        """What the auditor or the worker says, whichever is wrong; else something of its own."""
        own = super().lie(offer, before, first_step)
        for after, outputs, steps in self._said(offer, before, first_step):
            right = arithmetic.run(offer.job_id, before, first_step, steps, self.bits(offer))
            if (after, outputs) != (right.root_after, right.outputs_root):
                return replace(own, root_after=after, outputs_root=outputs)
        return own

    def _said(self, offer: LeaseOffer, before: bytes, first_step: int) -> list[Any]:
        job = offer.job_id.hex()
        return [
            *self.place.raw.execute(
                "SELECT root_after, outputs_root, steps FROM segment WHERE job_id = ? "
                "AND first_step = ? AND root_before = ? ORDER BY segment_id DESC LIMIT 1",
                (job, first_step, before),
            ),
            *self.place.raw.execute(
                "SELECT audit_commitment.root_after, audit_commitment.outputs_root, "
                "audit_commitment.steps FROM audit_commitment JOIN audit USING (audit_id) "
                "WHERE audit.job_id = ? AND audit_commitment.first_step = ? "
                "AND audit_commitment.root_before = ? ORDER BY audit_commitment.committed_at_us",
                (job, first_step, before),
            ),
        ]


class Accuser(ClassBot):
    """Works honestly and calls others wrong: lies in audits, never as an arbiter."""

    share = 0.8

    def means(self, offer: LeaseOffer) -> bool:
        """As an auditor."""
        return self.purpose(offer.terms.key.lease_id) in ACCUSING


class Framer(ClassBot):
    """One of a few friends who work honestly and say the same wrong thing of everybody else."""

    share = 1.0
    friends: frozenset[str] = frozenset()
    """Keys of all of them; set by who puts the market together."""

    def means(self, offer: LeaseOffer) -> bool:
        """As auditor or arbiter of a stranger's work."""
        row = self.place.raw.execute(
            "SELECT segment.device_key_id FROM audit JOIN segment "
            "ON segment.segment_id = audit.segment_id WHERE audit.lease_id = ?",
            (offer.terms.key.lease_id,),
        ).fetchone()
        return row is not None and row[0] not in self.friends

    def lie(self, offer: LeaseOffer, before: bytes, first_step: int) -> Ran:
        """What friends say."""
        return made_up(f"frame {offer.job_id.hex()} {first_step}", before)


class Misnamed(ClassBot):
    """Says that it is of a class whose bits it does not compute: its card is another one."""

    def bits(self, offer: LeaseOffer) -> str:
        """Those of the card that it is."""
        if offer.spec.mode is not Mode.CLASS or self.reformed:
            return super().bits(offer)
        self.guilty = True
        return OTHER_CARD

    def means(self, offer: LeaseOffer) -> bool:
        """It tells no other lie."""
        return False


class AwayArbiter(ClassBot):
    """Takes an arbiter's work and is gone, or computes it and never opens it."""

    share = 0.8

    def means(self, offer: LeaseOffer) -> bool:
        """What it computes is right."""
        return False

    def _run(self, run: events.Run) -> None:
        arbiter = self.purpose(run.key.lease_id) == "arbiter"
        if arbiter and self.dice.chance(0.5) and self.cheats():
            self.trace.tell(f"{self.name} vanishes as an arbiter")
            self.crash(self.dice.between_us(20, 90))
        else:
            super()._run(run)

    def open(self, lease_id: str, index: int) -> None:
        """Silence about an arbiter's answer."""
        if self.purpose(lease_id) != "arbiter" or not self.cheats():
            super().open(lease_id, index)


CLASS_BOTS: tuple[type[Worker], ...] = (
    ClassLiar,
    LyingArbiter,
    Accuser,
    Misnamed,
    AwayArbiter,
    Framer,
)
"""Every way to misbehave that only class mode has."""
IN_CLASSES: tuple[type[Worker], ...] = (
    *CLASS_BOTS,
    Skipper,
    Milker,
    GarbageFiles,
    StaleFence,
    Replayer,
    Equivocator,
    Vanisher,
    Mute,
    FalseOpener,
    Colluder,
)
"""Who misbehaves in a market of classes: these, and some of those of exact mode."""
