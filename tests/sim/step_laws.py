"""Laws of step audits: drawn after the roots were signed and from them, answered or ended in time,
paid after the verdict, convicted by nothing but a wrong step.

Which steps of a segment are wrong is worked out from what its worker signed, so that every look at
drawn steps has a chance to find one that is known here, and one outcome.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb, sqrt
from typing import TYPE_CHECKING, Any

from flopmarket.jobs.checksums import ChecksumList
from flopmarket.trust.audit_records import LeaseAudits, check
from flopmarket.trust.challenge import ChallengeTerms, Purpose, draw, drawn_steps, leads_to
from flopmarket.trust.encoding import DIGEST_BYTES, AnyDocument, decode, digest
from flopmarket.trust.envelope import Envelope, Header
from flopmarket.trust.keys import KeyRole
from flopmarket.trust.step_audit import StepAnswer, StepClaim
from flopmarket_coordinator.application.types_accounts import Session
from tests.sim.broken import Broken
from tests.sim.stories import signed_wrong

if TYPE_CHECKING:
    from tests.sim.laws import Laws

LATE_US = 30_000_000
PAGE = 100
_ORDER = {"roots": 0, "states": 1, "house": 2, "ended": 3}
_AUDITS = (
    "SELECT step_audit_id, segment_id, phase, number, value, claim, answer, deadline_us, outcome "
    "FROM step_audit ORDER BY rowid"
)


@dataclass(frozen=True, slots=True)
class Audit:
    """A row of a step audit."""

    audit_id: str
    segment_id: int
    phase: str
    number: int
    value: bytes
    claim: bytes
    answer: bytes
    deadline_us: int
    outcome: str


@dataclass(frozen=True, slots=True)
class Look:
    """A draw about a wrong segment: the chance that so many steps meet one of the wrong ones, and
    whether they did. Whether its worker answers is another matter."""

    chance: float
    met: bool


class StepLaws:
    """Follows the rows of step audits, and what leases say of them."""

    def __init__(self, laws: Laws) -> None:
        self._laws = laws
        self._place = laws.place
        self._raw = laws.place.raw
        self._known: dict[str, Audit] = {}
        self._values: dict[tuple[str, int], str] = {}
        self._looked_back: set[str] = set()
        self._leases = 0
        self.looks: list[Look] = []

    # --- after every tick ---------------------------------------------------------------------

    def follow(self) -> None:
        """Whatever is new."""
        self._terms()
        for row in self._raw.execute(_AUDITS):
            now = Audit(*row)
            before = self._known.get(now.audit_id)
            if before != now:
                self._known[now.audit_id] = now
                self._judge(before, now)
            if now.phase != "ended":
                self._lasts(now)
        for key_id, count in self._place.misspoken.items():
            worker = self._laws.workers.get(key_id)
            if count and worker is not None and worker.honest:
                raise Broken("misspoken", f"{worker.name} answered what nobody takes")

    def _terms(self) -> None:
        """A lease whose segments cost the house more than it has says how many steps it draws."""
        parameters = self._place.parameters
        rules, budget = parameters.audit_rules, parameters.max_house_flops
        for at, lease_id, drawn, text, steps, most in self._raw.execute(
            "SELECT challenge.rowid, lease_id, audit_steps, job.work, job.steps, "
            "job.segment_steps FROM challenge JOIN lease USING (lease_id) JOIN job USING (job_id) "
            "WHERE challenge.rowid > ? AND job.mode = 'exact' ORDER BY challenge.rowid",
            (self._leases,),
        ):
            self._leases = at
            step_flops = sum(json.loads(text)["flops"].values())
            count = min(steps, most)
            wanted = 0
            if step_flops * count > budget:
                paid = max(budget // step_flops, rules.least_steps)
                wanted = min(paid, rules.most_steps, count)
            if drawn != wanted:
                raise Broken("steps-drawn", f"lease {lease_id} draws {drawn} steps, not {wanted}")

    def _judge(self, before: Audit | None, now: Audit) -> None:
        name = f"step audit {now.audit_id} of segment {now.segment_id}"
        segment = self._segment(now)
        if before is None:
            if segment["state"] != "committed":
                self._looked_back.add(now.audit_id)
        elif _ORDER[now.phase] < _ORDER[before.phase]:
            raise Broken("transition", f"{name} went from {before.phase} to {now.phase}")
        elif before.value and (before.claim, before.value) != (now.claim, now.value):
            raise Broken("steps-redrawn", f"{name} was drawn, and is drawn again")
        if bool(now.value) != bool(now.claim) or (now.phase == "roots" and now.value):
            raise Broken("steps-foreseen", f"{name}: its value is out before its roots are signed")
        if now.value and not (before and before.value):
            self._drawn(name, now, segment)
        if now.answer and not (before and before.answer):
            self._answered(name, now, segment)
        if now.phase == "ended":
            self._ended(name, before, now, segment)

    def _drawn(self, name: str, now: Audit, segment: dict[str, Any]) -> None:
        """A value of the lease's own chain, used once."""
        lease_id = segment["lease_id"]
        first = self._values.setdefault((lease_id, now.number), now.audit_id)
        if first != now.audit_id:
            raise Broken("steps-foreseen", f"{name} is drawn by a value that {first} revealed")
        terms = self._challenge(lease_id)
        if not leads_to(now.value, terms.steps_anchor, now.number):
            raise Broken("steps-foreseen", f"{name}: value {now.number} is not of its chain")
        wrong, steps = self._wrong(now), self._steps(now, segment)
        if wrong:
            every = comb(segment["steps"], len(steps))
            missed = comb(segment["steps"] - len(wrong), len(steps)) / every
            self.looks.append(Look(1 - missed, not wrong.isdisjoint(steps)))

    def _answered(self, name: str, now: Audit, segment: dict[str, Any]) -> None:
        """It is about the steps that the value draws from the claim."""
        steps = tuple(state.step for state in _body(now.answer, StepAnswer).states)
        if steps != self._steps(now, segment):
            raise Broken("steps-drawn", f"{name} is about steps {steps}, others were drawn")

    def _steps(self, now: Audit, segment: dict[str, Any]) -> tuple[int, ...]:
        """What is drawn, as many as the lease says."""
        count = self._challenge(segment["lease_id"]).audit_steps
        x = draw(Purpose.STEPS, now.value, digest(_body(now.claim, StepClaim)))
        return drawn_steps(x, segment["first_step"], segment["steps"], count)

    def _ended(self, name: str, before: Audit | None, now: Audit, segment: dict[str, Any]) -> None:
        self._laws.seen[f"steps: {now.outcome}"] += 1
        worker = self._laws.workers.get(segment["device_key_id"])
        state = segment["state"]
        drawn = {it.step for it in _body(now.answer, StepAnswer).states} if now.answer else set()
        if now.outcome == "EQUAL":
            wrong = self._wrong(now) if now.answer else None
            if wrong is None or wrong & drawn:
                raise Broken("wrong-accepted", f"{name}: what was answered is wrong")
        elif now.outcome == "DIFFERS":
            if worker is not None and not worker.guilty:
                raise Broken("false-accusation", f"{name}: {worker.name} did nothing")
            if state not in ("rejected", "void"):
                raise Broken("verdict", f"{name} differs, and the segment is {state}")
        elif now.outcome == "UNUSABLE":
            answered = before is not None and before.phase == "house"
            if answered and worker is not None and not worker.guilty:
                raise Broken("false-accusation", f"{name}: {worker.name} has answered")
            if state in ("committed", "verified", "settled") and now.audit_id not in (
                self._looked_back
            ):
                raise Broken("verdict", f"{name} is not answered, and the segment is {state}")
            (struck,) = self._raw.execute(
                "SELECT count(*) FROM strike WHERE kind = 'silence' AND segment_id = ?",
                (now.segment_id,),
            ).fetchone()
            if not struck:
                raise Broken("strike", f"{name} is not answered, and nobody is struck for it")

    def _lasts(self, now: Audit) -> None:
        """Nothing is paid before the verdict, and no question stays open beyond its time."""
        name = f"step audit {now.audit_id} of segment {now.segment_id}"
        (state,) = self._raw.execute(
            "SELECT state FROM segment WHERE segment_id = ?", (now.segment_id,)
        ).fetchone()
        if now.audit_id not in self._looked_back and state in ("verified", "settled"):
            raise Broken("paid-unseen", f"{name} lasts, and the segment is {state}")
        if (
            now.phase in ("roots", "states")
            and now.deadline_us < self._place.now_us() - LATE_US
            and self._place.settled
        ):
            raise Broken("steps-deadline", f"{name} should have ended at {now.deadline_us}")

    # --- truth --------------------------------------------------------------------------------

    def _wrong(self, audit: Audit) -> frozenset[int] | None:
        """The wrong steps of what the worker signed; None where its files do not fit together,
        which is seen without looking at a step."""
        claim, shelf = _body(audit.claim, StepClaim), self._place.shelf
        segment = self._segment(audit)
        roots = shelf.stored[claim.roots.hex()]
        sums = ChecksumList.from_bytes(shelf.stored[claim.checksums.hex()])
        parts = [roots[at : at + DIGEST_BYTES] for at in range(0, len(roots), DIGEST_BYTES)]
        ends = (parts[0], parts[-1]) == (segment["root_before"], segment["root_after"])
        rows = shelf.inside.get(segment["outputs_root"], ())
        if not ends or len(rows) != sums.steps:
            return None
        return signed_wrong(bytes.fromhex(segment["job_id"]), parts, sums)

    def overlooked(self, segment_id: int) -> bool:
        """Whether a wrong segment counts as drawn steps of it were right: that is the chance that a
        buyer of big segments takes."""
        row = self._raw.execute(
            _AUDITS.replace("ORDER BY", "WHERE segment_id = ? AND outcome = 'EQUAL' ORDER BY"),
            (segment_id,),
        ).fetchone()
        if row is not None:
            self._laws.seen["wrong, and drawn steps missed it"] += 1
        return row is not None

    def looked_at(self, segment_id: int) -> bool:
        """Whether somebody else computes a segment again that the house would only draw from."""
        (count,) = self._raw.execute(
            "SELECT count(*) FROM audit JOIN segment USING (segment_id) JOIN challenge "
            "ON challenge.lease_id = segment.lease_id WHERE audit.segment_id = ? "
            "AND audit_steps > 0 AND audit.phase NOT IN ('house', 'ended')",
            (segment_id,),
        ).fetchone()
        return bool(count)

    def _segment(self, audit: Audit) -> dict[str, Any]:
        names = "segment_id, job_id, lease_id, device_key_id, first_step, steps, state, "
        names += "root_before, root_after, outputs_root"
        row = self._raw.execute(
            f"SELECT {names} FROM segment WHERE segment_id = ?", (audit.segment_id,)
        ).fetchone()
        return dict(zip(names.split(", "), row, strict=True))

    def _challenge(self, lease_id: str) -> ChallengeTerms:
        (envelope,) = self._raw.execute(
            "SELECT envelope FROM challenge WHERE lease_id = ?", (lease_id,)
        ).fetchone()
        return _body(envelope, ChallengeTerms)

    # --- at the end ---------------------------------------------------------------------------

    def at_end(self) -> None:
        """What is published of jobs with drawn steps contradicts itself nowhere, and nobody is
        asked any more."""
        jobs = self._raw.execute(
            "SELECT DISTINCT job.job_id, buyer FROM step_audit JOIN job USING (job_id) "
            "ORDER BY job.number"
        ).fetchall()
        for job_id, buyer in jobs:
            for finding in check(self._published(job_id, buyer), self._place.key.public):
                raise Broken(f"published/{finding.finding.code}", f"job {job_id}: {finding}")

    def _published(self, job_id: str, buyer: str) -> list[LeaseAudits]:
        """All pages, put together as a client does."""
        session = Session(buyer, "", KeyRole.OWNER, self._place.now_us() + 1)
        leases: dict[str, LeaseAudits] = {}
        token, application = "", self._place.application
        while True:
            asked = (session, job_id, PAGE, token)
            page = self._place.read(lambda tx, asked=asked: application.list_audits(tx, *asked))
            for told in page.leases:
                lists = (told.terms, told.rules, told.candidates, told.house)
                leases.setdefault(told.lease_id, LeaseAudits(told.lease_id, *lists, ()))
            for lease_id, item in page.segments:
                known = leases[lease_id]
                leases[lease_id] = replace(known, segments=(*known.segments, item))
            token = page.next_page_token
            if not token:
                return list(leases.values())


def _body(envelope: bytes, kind: type[AnyDocument]) -> AnyDocument:
    return decode(kind, decode(Header, Envelope.from_bytes(envelope).payload).body)


def look_band(looks: Sequence[Look], width: float = 4.5) -> tuple[float, float, int]:
    """Least and most of looks that meet a wrong step by chance, and how many did."""
    mean = sum(look.chance for look in looks)
    spread = sqrt(sum(look.chance * (1 - look.chance) for look in looks))
    return mean - width * spread - 1, mean + width * spread + 1, sum(look.met for look in looks)
