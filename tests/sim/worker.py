"""A simulated worker: the real session machine in a shell on virtual time.

The shell does what the agent does: it keeps a journal that survives a crash, uploads in turn, signs
with its own clock, reconnects. What a device computes is pretended (:mod:`tests.sim.arithmetic`);
bots override the methods that say what is computed, uploaded, signed and sent.
"""

from __future__ import annotations

from typing import Any

from flopmarket.errors import FlopmarketError
from flopmarket.trust.documents import Commitment, LeaseAcceptance
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.sealing import InnerSecret, seal_inner
from flopmarket_coordinator.application.types_working import (
    SegmentCommit,
    SegmentOpening,
    TimeReport,
)
from flopmarket_worker.core import events
from flopmarket_worker.core.events import LeaseKey, SegmentRecord, UploadedFiles
from flopmarket_worker.lease_offer import check_numerics, key_of, read_offer
from tests.sim.arithmetic import named
from tests.sim.broken import Broken
from tests.sim.device import Folder
from tests.sim.kinds import measured
from tests.sim.labour import Labour


class Worker(Labour):
    """One key with one device."""

    # --- messages -----------------------------------------------------------------------------

    def hear(self, kind: str, body: Any) -> None:
        """A message of the coordinator."""
        match kind:
            case "welcome":
                for refused in body.refused:
                    self.trace.tell(f"{self.name}: offer refused {refused.code}")
                kept = tuple(LeaseKey(item.lease_id, item.fence) for item in body.kept)
                self._dispatch(events.Connected(kept))
            case "ended":
                self._stream = None
                self._dispatch(events.Disconnected())
                self._later(self.dice.between_us(0.1, 3.0), self._connect)
            case "lease_offered":
                self._on_offer(body)
            case "lease_revoked":
                revoked = body.lease_revoked
                key = LeaseKey(revoked.lease_id, revoked.fence)
                self._dispatch(events.Revoked(key, revoked.reason))
            case "commitment_answer":
                self._on_answer(body)
            case "opening_asked":
                self._on_opening_asked(body)

    def _on_offer(self, message: Any) -> None:
        offered = message.lease_offered
        key = key_of(offered)
        try:
            offer = read_offer(offered, audience=self.place.key.key_id, now_us=self.now_us())
            told = self.terms()
            known = measured(told.device_id, told.device_name, self.card.kind, told.modes)
            check_numerics(offer.spec, *known)
        except FlopmarketError as error:
            self.trace.tell(f"{self.name} declines an offer: {error.code}")
            self._dispatch(events.OfferUnusable(key, str(error)))
            return
        if key not in self.disk and self.machine.phase(key) is None:
            self.disk[key] = Folder(offer, message)
        self._dispatch(events.Offered(offer.terms))
        if key not in self.machine.held and self.machine.phase(key) is None:
            self.disk.pop(key, None)

    def _on_answer(self, answer: Any) -> None:
        name = (answer.lease_id, answer.segment_index)
        if answer.accepted:
            self._accepted.add(name)
        elif name in self._accepted and self.honest:
            raise Broken("answer", f"{self.name}: {name} was accepted, and now {answer.code}")
        for key, folder in self.disk.items():
            if key.lease_id == answer.lease_id and answer.accepted:
                folder.answered.append(answer.segment_index)
        if not answer.accepted:
            self.trace.tell(f"{self.name}: segment {answer.segment_index} refused {answer.code}")
        self._dispatch(
            events.Answered(answer.lease_id, answer.segment_index, answer.accepted, answer.code)
        )

    # --- instructions -------------------------------------------------------------------------

    def _dispatch(self, event: events.Event) -> None:
        for instruction in self.machine.handle(event):
            self._carry_out(instruction)

    def _carry_out(self, instruction: events.Instruction) -> None:
        match instruction:
            case events.Prepare(terms, start):
                self._prepare(terms.key, start)
            case events.Abandon(key):
                self.disk[key].abandoned = True
            case events.Run(key):
                self._run(instruction)
            case events.Interrupt(key):
                self.disk[key].interrupted = True
            case events.Upload(key, segment):
                self._upload(key, segment)
            case events.Close(key):
                self._later(self.dice.between_us(0.01, 0.3), self._close, key)
            case events.Accept(terms):
                self.send("lease_accepted", self.acceptance(terms))
            case events.Commit(key, segment, files):
                self.commit(self.disk[key], segment, files)
            case events.Release(key, reason, detail):
                self.trace.tell(f"{self.name} gives back {key.lease_id[:6]}: {reason}")
                self.send("lease_released", (key.lease_id, key.fence, str(reason), detail[:100]))

    def acceptance(self, terms: events.LeaseTerms) -> Envelope:
        """The signed "I take it"."""
        return self.sign(
            LeaseAcceptance(
                job_id=self.disk[terms.key].offer.job_id,
                lease_id=terms.key.lease_id,
                fence=terms.key.fence,
                device_key_id=self.key.key_id,
                device_id=terms.device_id,
                first_step=terms.first_step,
                step_count=terms.step_count,
            )
        )

    # --- commitments --------------------------------------------------------------------------

    def commit(self, folder: Folder, segment: SegmentRecord, files: UploadedFiles) -> None:
        """Sign and send a commitment."""
        self.send(
            "segment_committed",
            SegmentCommit(
                self.sign(self.commitment(folder, segment)),
                files.outputs_artifact,
                files.checkpoint_artifact,
                TimeReport(run_us=segment.times.run_us),
            ),
        )

    def commitment(self, folder: Folder, segment: SegmentRecord) -> Commitment:
        """What it claims."""
        terms = folder.offer.terms
        return Commitment(
            job_id=folder.offer.job_id,
            lease_id=terms.key.lease_id,
            fence=terms.key.fence,
            device_key_id=self.key.key_id,
            segment_index=segment.index,
            first_step=segment.first_step,
            steps_done=segment.steps,
            state_root_before=segment.state_root_before,
            state_root_after=segment.state_root_after,
            outputs_root=segment.outputs_root,
            sealed_inner=seal_inner(self.secret_of(folder, segment)),
        )

    def secret_of(self, folder: Folder, segment: SegmentRecord) -> InnerSecret:
        """What the commitment of a segment hides; kept for the day when somebody asks."""
        name = (folder.offer.terms.key.lease_id, segment.index)
        if name not in self.secrets:
            salt = named(f"salt {self.name} {name}")
            self.secrets[name] = InnerSecret(self.key.key_id, salt, segment.inner)
        return self.secrets[name]

    def _on_opening_asked(self, message: Any) -> None:
        asked = message.opening_asked
        self._later(self.dice.between_us(0.05, 0.5), self.open, asked.lease_id, asked.segment_index)

    def open(self, lease_id: str, index: int) -> None:
        """Show what a commitment hides, or say that it is not here."""
        secret = self.secrets.get((lease_id, index))
        envelope = None if secret is None else self.sign(secret)
        code = "" if secret is not None else "SECRET_UNKNOWN"
        self.send("segment_opened", SegmentOpening(lease_id, index, envelope, code, ""))
