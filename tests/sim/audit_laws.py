"""Laws of sampling, audits and consequences, beside those of :mod:`tests.sim.laws`.

Draws are derived again from what was published, openings are compared with what was sealed, and
chains, checkpoints and slashes are followed from row to row.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from math import sqrt
from typing import TYPE_CHECKING, Any

from flopmarket.trust.challenge import AuditorList, ChallengeRecord, ChallengeTerms, rederive
from flopmarket.trust.documents import Commitment
from flopmarket.trust.encoding import decode
from flopmarket.trust.envelope import Envelope, Header
from flopmarket.trust.sealing import InnerSecret, seal_inner
from tests.sim.broken import Broken

if TYPE_CHECKING:
    from tests.sim.laws import Laws

Row = dict[str, Any]
LIVE = ("committed", "verified", "settled")
DONE = ("verified", "settled")
UNPAID = ("committed", "verified")


class AuditLaws:
    """Reads the rows that :class:`~tests.sim.laws.Laws` follows, and a few of its own."""

    def __init__(self, laws: Laws) -> None:
        self._laws = laws
        self._raw = laws.place.raw
        self._audits: dict[str, tuple[Any, ...]] = {}
        self._records = 0
        self.draws: list[tuple[int, bool]] = []
        """(rate in ppm, whether it was drawn) of every commitment."""
        self._drawn: dict[int, bool] = {}

    # --- after every tick ---------------------------------------------------------------------

    def follow(self) -> None:
        """What was drawn and who audits, as far as it is new."""
        for segment_id, document in self._raw.execute(
            "SELECT segment_id, document FROM challenge_record WHERE segment_id > ? "
            "ORDER BY segment_id",
            (self._records,),
        ):
            self._records = segment_id
            record = decode(ChallengeRecord, document)
            self.draws.append((record.rate_ppm, record.audited))
            self._drawn[segment_id] = record.audited
        for row in self._raw.execute(
            "SELECT audit_id, phase, auditor_account_id, auditor_key_id, segment_id, question_id, "
            "outcome, purpose FROM audit"
        ):
            if self._audits.get(row[0]) != row:
                self._audits[row[0]] = row
                self._audit(row)

    def _audit(self, row: tuple[Any, ...]) -> None:
        audit_id, phase, account, key_id, segment_id, question_id, outcome, purpose = row
        segment = self._laws.known("segment")[segment_id]
        if account:
            job = self._laws.known("job")[segment["job_id"]]
            worker = self._laws.workers.get(key_id)
            owner = account if worker is None else worker.account
            if segment["account_id"] in (account, owner):
                raise Broken("self-audit", f"audit {audit_id} is by the producer's account")
            if job["buyer"] in (account, owner):
                raise Broken("self-audit", f"audit {audit_id} is by the buyer's account")
            self._laws.seen[f"audit by another: {phase}"] += 1
        equal = purpose not in ("canary", "arbiter") and outcome == "EQUAL"
        self._opened(audit_id, question_id, phase, equal)

    def _opened(self, audit_id: str, question_id: int, phase: str, equal: bool) -> None:
        """Nobody is believed to have computed something who did not show it. What was taken for an
        opening is what was sealed, also where the roots differ."""
        index, secret, key_id, commitment = self._raw.execute(
            "SELECT segment_index, worker_secret, device_key_id, commitment FROM audit, segment "
            "WHERE audit_id = ? AND segment.segment_id = ?",
            (audit_id, question_id),
        ).fetchone()
        # In other phases what is there may be of another auditor or another question.
        if equal or (secret and phase == "dispute"):
            self._shown(audit_id, secret, key_id, commitment)
        answer = self._raw.execute(
            "SELECT auditor_secret, auditor_key_id, commitment FROM audit "
            "JOIN audit_commitment USING (audit_id, lease_id) "
            "WHERE audit_id = ? AND segment_index = ?",
            (audit_id, index),
        ).fetchone()
        if answer is not None and (equal or (answer[0] and phase in ("worker-opens", "dispute"))):
            self._shown(audit_id, *answer)

    def _shown(self, audit_id: str, secret: bytes, key_id: str, commitment: bytes) -> None:
        claimed = self._body(commitment)
        if not secret:
            raise Broken("opening", f"audit {audit_id} ended as equal and nothing was opened")
        opened = decode(InnerSecret, decode(Header, Envelope.from_bytes(secret).payload).body)
        if seal_inner(opened) != claimed.sealed_inner or opened.device_key_id != key_id:
            raise Broken("opening", f"audit {audit_id}: what was opened is not what was sealed")

    @staticmethod
    def _body(envelope: bytes) -> Commitment:
        return decode(Commitment, decode(Header, Envelope.from_bytes(envelope).payload).body)

    # --- segments -----------------------------------------------------------------------------

    def committed(self, name: str, row: Row, lease: Row) -> None:
        """What counts is what was signed, for this lease, its fence and its range."""
        (envelope,) = self._raw.execute(
            "SELECT commitment FROM segment WHERE segment_id = ?", (row["segment_id"],)
        ).fetchone()
        body = self._body(envelope)
        signed = (body.lease_id, body.fence, body.device_key_id, body.job_id.hex())
        leased = (lease["lease_id"], lease["fence"], lease["device_key_id"], lease["job_id"])
        if signed != leased:
            raise Broken("fence", f"{name} was signed for {signed}, the lease is {leased}")
        end, last = row["first_step"] + row["steps"], lease["first_step"] + lease["step_count"]
        if row["first_step"] < lease["first_step"] or end > last:
            raise Broken("range", f"{name} ends at step {end}, its lease at {last}")
        (done,) = self._raw.execute(
            "SELECT coalesce(sum(steps), 0) FROM segment WHERE lease_id = ? AND segment_id < ?",
            (row["lease_id"], row["segment_id"]),
        ).fetchone()
        if row["first_step"] != lease["first_step"] + done:
            raise Broken("range", f"{name} begins at {row['first_step']}, {done} steps were done")
        most = self._laws.known("job")[row["job_id"]]["segment_steps"]
        if row["steps"] > most:
            raise Broken("range", f"{name} has {row['steps']} steps, at most {most}")

    def verified(self, name: str, row: Row) -> None:
        """What was drawn is recomputed before it counts."""
        drawn = self._drawn.get(row["segment_id"], True)
        if drawn and row["verdict"] is None and not row["reason"]:
            raise Broken("verdict", f"{name} was drawn and is {row['state']} without a verdict")

    def settled(self, name: str, row: Row) -> None:
        """Pay for a chain's segment comes once its end or a later state is durable."""
        lease = self._laws.known("lease")[row["lease_id"]]
        job = self._laws.known("job")[row["job_id"]]
        if not lease["chain"] or job["ending"] == "cancelled" or job["state"] == "cancelled":
            return
        durable = any(
            other["job_id"] == row["job_id"]
            and other["checkpoint_artifact"]
            and other["first_step"] >= row["first_step"]
            and self._was_done(other)
            for other in self._laws.known("segment").values()
        )
        if not durable:
            raise Broken("checkpoint", f"{name} is paid and no state after it is durable")

    @staticmethod
    def _was_done(row: Row) -> bool:
        return row["state"] in DONE or bool(row["settled_at_us"])

    def rejected(self, name: str, row: Row) -> None:
        """A wrong segment costs the device its key, its streak, and a look at the rest."""
        revoked = self._raw.execute(
            "SELECT revoked FROM account_key WHERE key_id = ?", (row["device_key_id"],)
        ).fetchone()[0]
        quarantined = self._raw.execute(
            "SELECT count(*) FROM strike WHERE kind = 'flip' AND segment_id = ?",
            (row["segment_id"],),
        ).fetchone()[0]
        if not revoked and not quarantined:
            raise Broken("slash", f"{name} was wrong and its key goes on")
        streak = self._raw.execute(
            "SELECT streak FROM offer WHERE offer_id = ?", (row["offer_id"],)
        ).fetchone()[0]
        if streak:
            raise Broken("streak", f"{name} was wrong and its device's streak is {streak}")
        self.looked_back(row["device_key_id"])

    def looked_back(self, key_id: str) -> None:
        """The house looks at all that the account of a faulty device has at stake and nobody of the
        house recomputed. A slash takes held pay in the same tick, so what was at stake is
        told by the rows before it."""
        house = self._laws.place.key.key_id
        for segment_id, state, verdict, auditor, task, held in self._raw.execute(
            "SELECT segment_id, state, verdict, auditor, house_task, held_state FROM segment "
            "WHERE account_id = (SELECT account_id FROM account_key WHERE key_id = ?)",
            (key_id,),
        ):
            before = self._laws.one_tick_ago(segment_id)
            if before is None or state not in LIVE or held == "released":
                continue
            at_stake = before["held_state"] in ("held", "waiting") or before["state"] in UNPAID
            ours = auditor == house or self._laws.classes.of_house(auditor)
            known = verdict is not None and (ours or verdict != before["verdict"])
            others = self._laws.classes.looked_at(segment_id)
            if known or not at_stake or others or self._laws.steps.looked_at(segment_id):
                continue
            if task not in ("recompute", "steps") or self._laws.classes.judges(segment_id):
                raise Broken("look-back", f"segment {segment_id} of a cheat is not looked at")

    def chain(self, job_id: str) -> None:
        """Live segments of a chain follow each other, each from where the one before ended."""
        rows = list(
            self._raw.execute(
                "SELECT segment_id, first_step, steps, root_before, root_after FROM segment "
                "WHERE job_id = ? AND state IN ('committed', 'verified', 'settled') "
                "ORDER BY first_step",
                (job_id,),
            )
        )
        for (_, first, steps, _, after), (name, begin, _, before, _) in pairwise(rows):
            if begin != first + steps:
                raise Broken("chain", f"segment {name} begins at {begin}, not {first + steps}")
            if before != after:
                raise Broken("chain", f"segment {name} does not start where the last one ended")

    # --- at the end ---------------------------------------------------------------------------

    def at_end(self) -> None:
        """Everything that was published leads to the decisions that were taken."""
        self._rederive()
        (left,) = self._raw.execute(
            "SELECT count(*) FROM audit_pay WHERE state = 'reserved' AND lease_id NOT IN "
            "(SELECT lease_id FROM audit WHERE phase <> 'ended' OR parent_id IN "
            "(SELECT audit_id FROM audit WHERE phase <> 'ended'))"
        ).fetchone()
        if left:
            raise Broken("audit-pay", f"{left} promises to auditors whose audits ended are open")
        for key_id, worker in self._laws.workers.items():
            (opened,) = self._raw.execute(
                "SELECT count(*) FROM session WHERE key_id = ?", (key_id,)
            ).fetchone()
            if opened > worker.sessions_asked:
                raise Broken(
                    "nonce", f"{worker.name} asked for {worker.sessions_asked} sessions, {opened}"
                )

    def _rederive(self) -> None:
        rules = self._laws.place.parameters.audit_rules
        documents = dict(self._raw.execute("SELECT digest, document FROM challenge_document"))
        records: dict[str, list[ChallengeRecord]] = defaultdict(list)
        for lease_id, document in self._raw.execute(
            "SELECT lease_id, document FROM challenge_record ORDER BY segment_id"
        ):
            records[lease_id].append(decode(ChallengeRecord, document))
        for lease_id, envelope, candidates, house in self._raw.execute(
            "SELECT lease_id, envelope, candidates, house FROM challenge"
        ):
            header = decode(Header, Envelope.from_bytes(envelope).payload)
            found = rederive(
                decode(ChallengeTerms, header.body),
                rules,
                decode(AuditorList, documents[candidates]),
                decode(AuditorList, documents[house]),
                records[lease_id],
            )
            for finding in found:
                raise Broken(f"draw/{finding.code}", f"lease {lease_id}: {finding.message}")


def audit_band(draws: list[tuple[int, bool]], width: float = 4.5) -> tuple[float, float, int]:
    """Least and most of drawn segments that chance explains, and how many were drawn."""
    mean = sum(rate for rate, _ in draws) / 1e6
    spread = sqrt(sum(rate / 1e6 * (1 - rate / 1e6) for rate, _ in draws))
    return mean - width * spread - 1, mean + width * spread + 1, sum(drawn for _, drawn in draws)
