"""Workers that do not do what they should, each in one way.

``guilty`` is set at the deed that costs a stake once it is found; a bot that only makes trouble
(replays, stale fences, silence) stays innocent in the books and must not be banned for it, and
must not gain either.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flopmarket.trust.documents import Commitment
from flopmarket.trust.encoding import decode
from flopmarket.trust.envelope import Envelope, Header
from flopmarket.trust.sealing import InnerSecret
from flopmarket_coordinator.application.types_working import HeldLease, SegmentCommit
from flopmarket_worker.core.events import LeaseTerms, SegmentRecord, UploadedFiles
from flopmarket_worker.lease_offer import LeaseOffer
from tests.sim import arithmetic
from tests.sim.arithmetic import EMPTY, Ran, named
from tests.sim.device import Folder
from tests.sim.worker import Worker


class Bot(Worker):
    """Misbehaves in some of its segments until it reforms."""

    honest = False
    share = 0.6

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.reformed = False
        self.deeds = 0

    def reform(self) -> None:
        """From now on it behaves."""
        super().reform()
        self.reformed = True

    def cheats(self) -> bool:
        """Whether now."""
        now = not self.reformed and self.dice.chance(self.share)
        self.deeds += now
        return now


class Skipper(Bot):
    """Leaves out the last step of a segment and says that it did all."""

    def compute(self, offer: LeaseOffer, before: bytes, first_step: int, steps: int) -> Ran:
        """Fewer steps than it says."""
        right = super().compute(offer, before, first_step, steps)
        if not self.cheats():
            return right
        self.guilty = True
        if before == EMPTY:
            return replace(right, outputs_root=named(f"nothing {first_step}"))
        return replace(right, root_after=arithmetic.advance(before, first_step, steps - 1))


class Perturber(Bot):
    """Right state, other outputs: another model, lower precision, other data."""

    def compute(self, offer: LeaseOffer, before: bytes, first_step: int, steps: int) -> Ran:
        """Outputs of something else."""
        right = super().compute(offer, before, first_step, steps)
        if not self.cheats():
            return right
        self.guilty = True
        return replace(right, outputs_root=named(f"cheaper {first_step}"))


class Copier(Bot):
    """Repeats the results of its segment before, which it has, instead of computing."""

    def compute(self, offer: LeaseOffer, before: bytes, first_step: int, steps: int) -> Ran:
        """Yesterday's outputs."""
        right = super().compute(offer, before, first_step, steps)
        if first_step < steps or not self.cheats():
            return right
        self.guilty = True
        old = super().compute(offer, before, first_step - steps, steps)
        return Ran(right.root_after, old.outputs_root, old.inner)


class Milker(Skipper):
    """Works honestly until it is trusted, then cheats in everything."""

    share = 1.0
    patience = 3

    def cheats(self) -> bool:
        """After ``patience`` segments."""
        self.deeds += 1
        return not self.reformed and self.deeds > self.patience


class GarbageFiles(Bot):
    """Commits to the right roots and uploads rubbish."""

    def files(self, folder: Folder, segment: SegmentRecord) -> tuple[bytes, bytes]:
        """Not what the roots say."""
        outputs, state = super().files(folder, segment)
        if not self.cheats():
            return outputs, state
        self.guilty = True
        if self.dice.chance(0.5):
            return b"rubbish", state
        # A checkpoint may not be due; then the outputs must do.
        return (outputs, named("rubbish")) if segment.upload_state else (named("rubbish"), state)


class OverClaimer(Bot):
    """Claims more steps than the lease or the segment has."""

    def commitment(self, folder: Folder, segment: SegmentRecord) -> Commitment:
        """Steps that nobody asked for."""
        right = super().commitment(folder, segment)
        if not self.cheats():
            return right
        terms = folder.offer.terms
        most = min(terms.segment_steps, terms.end_step - segment.first_step)
        return replace(right, steps_done=most + self.dice.randint(1, 1_000))


class Usurper(Bot):
    """Commits from a start of its own choice: the state that was leased is withheld."""

    def commitment(self, folder: Folder, segment: SegmentRecord) -> Commitment:
        """From somewhere else."""
        right = super().commitment(folder, segment)
        if not self.cheats():
            return right
        return replace(right, state_root_before=named(f"own start {segment.first_step}"))


class StaleFence(Bot):
    """Commits, accepts and holds under fences that are over."""

    def commitment(self, folder: Folder, segment: SegmentRecord) -> Commitment:
        """Under an older fence."""
        right = super().commitment(folder, segment)
        return replace(right, fence=right.fence - 1) if self.cheats() else right

    def acceptance(self, terms: LeaseTerms) -> Envelope:
        """For an older fence."""
        if self.dice.chance(0.2) and not self.reformed:
            older = replace(terms, key=replace(terms.key, fence=terms.key.fence - 1))
            self.disk[older.key] = self.disk[terms.key]
            try:
                return super().acceptance(older)
            finally:
                del self.disk[older.key]
        return super().acceptance(terms)


class Hoarder(Bot):
    """Says that it holds leases which ended, or were never its own."""

    def _held(self) -> tuple[HeldLease, ...]:
        held = super()._held()
        if not self.cheats():
            return held
        return (*held, HeldLease("no such lease", 1), *self._old)

    @property
    def _old(self) -> tuple[HeldLease, ...]:
        rows = self.place.raw.execute(
            "SELECT lease_id, fence FROM lease ORDER BY rowid DESC LIMIT 3"
        )
        return tuple(HeldLease(lease_id, fence) for lease_id, fence in rows)


class Replayer(Bot):
    """Sends every message again, later, to whatever stream it has then."""

    def send(self, kind: str, body: Any) -> None:
        """Once now, once later."""
        super().send(kind, body)
        if kind != "heartbeat" and self.cheats():
            self._later(self.dice.between_us(0.1, 40), super().send, kind, body)


class Equivocator(Bot):
    """Signs two different commitments for one segment."""

    def commit(self, folder: Folder, segment: SegmentRecord, files: UploadedFiles) -> None:
        """The right one, and one with another inside."""
        super().commit(folder, segment, files)
        if self.cheats():
            other = replace(self.commitment(folder, segment), outputs_root=named("another story"))
            commit = SegmentCommit(
                self.sign(other), files.outputs_artifact, files.checkpoint_artifact
            )
            # Whichever arrives first counts; then the other story may be its word.
            self.guilty = True
            self.send("segment_committed", commit)


class DoubleCommitter(Bot):
    """Commits one segment twice under two signatures, hoping to be paid twice."""

    def commit(self, folder: Folder, segment: SegmentRecord, files: UploadedFiles) -> None:
        """The same claim in another envelope."""
        super().commit(folder, segment, files)
        if self.cheats():
            super().commit(folder, segment, files)


class Grinder(Bot):
    """Varies what it may choose of a commitment, so that the draw may miss it."""

    def commit(self, folder: Folder, segment: SegmentRecord, files: UploadedFiles) -> None:
        """With another salt; nothing else of a commitment is its own to choose."""
        for tries in range(8):
            name = (folder.offer.terms.key.lease_id, segment.index)
            secret = self.secret_of(folder, segment)
            if not self.reformed:
                self.secrets[name] = replace(secret, salt=named(f"{self.name} {name} {tries}"))
        super().commit(folder, segment, files)


class Impostor(Bot):
    """Commits in the name of somebody else's lease."""

    def commit(self, folder: Folder, segment: SegmentRecord, files: UploadedFiles) -> None:
        """Its own, and a claim on another worker's lease."""
        super().commit(folder, segment, files)
        if not self.cheats():
            return
        row = self.place.raw.execute(
            "SELECT lease_id, fence, next_step, next_segment, next_root, job_id FROM lease "
            "WHERE device_key_id <> ? AND state = 'running' AND audit_id = '' "
            "AND next_step < first_step + step_count ORDER BY rowid DESC LIMIT 1",
            (self.key.key_id,),
        ).fetchone()
        if row is not None:
            # Whatever it says of the state: the law is about whose lease it is.
            stolen = replace(
                self.commitment(folder, segment),
                lease_id=row[0],
                fence=row[1],
                first_step=row[2],
                steps_done=1,
                segment_index=row[3],
                state_root_before=row[4],
                state_root_after=row[4],
                job_id=bytes.fromhex(row[5]),
            )
            commit = SegmentCommit(
                self.sign(stolen), files.outputs_artifact, files.checkpoint_artifact
            )
            self.send("segment_committed", commit)


class Vanisher(Skipper):
    """Cheats, and is away whenever somebody asks it to open a commitment."""

    def open(self, lease_id: str, index: int) -> None:
        """Silence."""
        if self.reformed or not self.guilty:
            super().open(lease_id, index)
        else:
            self.trace.tell(f"{self.name} vanishes")
            self.crash(self.dice.between_us(5, 60))


class Mute(Bot):
    """Works honestly and opens nothing: silence costs the unit, and repeated, the stake."""

    share = 1.0

    def open(self, lease_id: str, index: int) -> None:
        """Silence."""
        if self.reformed:
            super().open(lease_id, index)
        else:
            self.guilty = True


class FalseOpener(Bot):
    """Opens commitments with something else than they hide."""

    share = 1.0

    def open(self, lease_id: str, index: int) -> None:
        """Another salt."""
        if self.cheats() and (lease_id, index) in self.secrets:
            self.guilty = True  # the same as silence, in the end
            right = self.secrets[lease_id, index]
            self.secrets[lease_id, index] = replace(right, salt=named("false"))
            super().open(lease_id, index)
            self.secrets[lease_id, index] = right
        else:
            super().open(lease_id, index)


class LazyAuditor(Bot):
    """Computes nothing once it is trusted, and guesses: audits and paid work look alike to it."""

    share = 1.0
    patience = 3

    def compute(self, offer: LeaseOffer, before: bytes, first_step: int, steps: int) -> Ran:
        """What costs nothing."""
        right = super().compute(offer, before, first_step, steps)
        self.deeds += 1
        if self.reformed or self.deeds <= self.patience:
            return right
        self.guilty = True
        after = EMPTY if before == EMPTY else named(f"guess {first_step}")
        return Ran(after, named(f"guessed {first_step}"), named("lazy"))


class Colluder(Bot):
    """Friends: the first commits to the friends' own bits, the second finds them right."""

    share = 1.0
    patience = 3

    def compute(self, offer: LeaseOffer, before: bytes, first_step: int, steps: int) -> Ran:
        """Bits that every friend comes to."""
        right = super().compute(offer, before, first_step, steps)
        self.deeds += 1
        if self.reformed or self.deeds <= self.patience:
            return right
        self.guilty = True
        name = f"friends {offer.job_id.hex()} {first_step} {steps}"
        after = EMPTY if before == EMPTY else named(name)
        return Ran(after, named(f"{name} outputs"), named(f"{name} inner"))


class Parrot(Bot):
    """Has its roots from somebody who computed, and opens with what its auditor opened before it:
    the steps between are of no worth where an opening is not held to its seal."""

    share = 1.0

    def compute(self, offer: LeaseOffer, before: bytes, first_step: int, steps: int) -> Ran:
        """Everything but what only those know who did the steps."""
        right = super().compute(offer, before, first_step, steps)
        if not self.cheats():
            return right
        self.guilty = True
        return replace(right, inner=named(f"not known {first_step}"))

    def open(self, lease_id: str, index: int) -> None:
        """Another's answer under its own name."""
        row = self.place.raw.execute(
            "SELECT auditor_secret FROM audit JOIN segment ON segment.segment_id = question_id "
            "WHERE segment.lease_id = ? AND segment_index = ? AND phase = 'worker-opens'",
            (lease_id, index),
        ).fetchone()
        own = self.secrets.get((lease_id, index))
        if self.reformed or row is None or not row[0] or own is None:
            super().open(lease_id, index)
            return
        heard = decode(InnerSecret, decode(Header, Envelope.from_bytes(row[0]).payload).body)
        self.secrets[lease_id, index] = replace(own, inner=heard.inner)
        super().open(lease_id, index)
        self.secrets[lease_id, index] = own


BOTS: tuple[type[Worker], ...] = (
    Skipper,
    Perturber,
    Copier,
    Milker,
    GarbageFiles,
    OverClaimer,
    Usurper,
    StaleFence,
    Hoarder,
    Replayer,
    Equivocator,
    DoubleCommitter,
    Grinder,
    Impostor,
    Vanisher,
    Mute,
    FalseOpener,
    LazyAuditor,
    Colluder,
)
"""Every way to misbehave; a run draws some. A :class:`Parrot` needs a leak that the market does not
have, and is played where a hunt asks for it."""
