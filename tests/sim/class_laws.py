"""Laws of class mode: who is asked, what three answers decide, and what is left undecided.

Votes are counted here once more, from raw rows and by who owns which device in truth, not by the
accounts that the coordinator wrote down. Nobody honest may lose anything but to three who lied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flopmarket.limits import MAX_ARBITER_PASSES
from tests.sim import arithmetic
from tests.sim.broken import Broken
from tests.sim.kinds import kind_of_class

if TYPE_CHECKING:
    from tests.sim.laws import Laws

ENOUGH = 3
"""Accounts that must have given one answer before somebody loses anything."""
ARBITERS = 2
LATE_US = 30_000_000
_WAITED = "('asking', 'sealing', 'auditor-opens', 'worker-opens')"
_OPEN = ("delayed", "asking", "sealing", "auditor-opens", "worker-opens")
_AUDITS = (
    "SELECT audit_id, purpose, segment_id, question_id, phase, auditors, lease_id, "
    "auditor_key_id, auditor_account_id, auditor_secret, outcome, finding, parent_id "
    "FROM audit JOIN job USING (job_id) WHERE job.mode = 'class' "
    "ORDER BY audit.created_at_us, audit_id"
)
_CHANGING = _AUDITS.replace("WHERE", "WHERE (phase <> 'ended' OR audit.ended_at_us >= ?) AND")


@dataclass(frozen=True, slots=True)
class Audit:
    """A row of an audit of a class job."""

    audit_id: str
    purpose: str
    segment_id: int
    question_id: int
    phase: str
    auditors: str
    lease_id: str
    key_id: str
    account_id: str
    secret: bytes
    outcome: str
    finding: str
    parent_id: str


@dataclass(frozen=True, slots=True)
class Said:
    """What the device of a key said about a segment, and whether that is right."""

    key_id: str
    owner: str
    ends: tuple[bytes, bytes]
    right: bool
    house: bool


class ClassLaws:
    """Reads audits of class jobs; nothing, as long as there is no such job."""

    def __init__(self, laws: Laws) -> None:
        self._laws = laws
        self._raw = laws.place.raw
        self._any = False
        self._audits: dict[str, Audit] = {}
        self._leases = 0
        self._transfer = 0
        self._void: set[int] = set()
        self._elsewhere: set[tuple[str, str]] = set()
        self.misjudged: set[str] = set()
        """Keys of devices that were right and lost to three who were not."""

    # --- after every tick ---------------------------------------------------------------------

    def follow(self) -> None:
        """Judge what changed."""
        if not self._any:
            row = self._raw.execute("SELECT 1 FROM job WHERE mode = 'class' LIMIT 1").fetchone()
            self._any = row is not None
        if not self._any:
            return
        changed: list[tuple[Audit, Audit | None]] = []
        since_us = self._laws.place.now_us() - LATE_US
        for row in self._raw.execute(_CHANGING, (since_us,)):
            audit, before = Audit(*row), self._audits.get(row[0])
            if audit != before:
                self._audits[audit.audit_id] = audit
                changed.append((audit, before))
        for audit, before in changed:
            self._audit(audit, before)
        self._in_time()
        self._voided()
        self._leased()
        self._paid()

    def _audit(self, audit: Audit, before: Audit | None) -> None:
        self._laws.seen[f"class {audit.purpose}: {audit.phase}"] += 1
        if audit.lease_id:
            self._asked(audit)
        if audit.parent_id:
            self._arbiter(audit, before)
        elif audit.phase == "arbitration":
            if not any(other.phase in _OPEN for other in self._arbiters_of(audit)):
                raise Broken("arbitration", f"audit {audit.audit_id} waits for nobody")
        elif audit.phase == "house":
            raise Broken("class-house", f"audit {audit.audit_id} of a class is left to the house")
        elif audit.finding in ("REFUTED", "CONFIRMED", "UNDECIDED") and audit.secret:
            self._decided(audit)

    # --- who is asked -------------------------------------------------------------------------

    def _asked(self, audit: Audit) -> None:
        """A device of the class that the job is bound to, as its offer says, and of nobody else in
        the matter."""
        kind = self._kind(audit.question_id)
        worker = self._laws.workers[audit.key_id]
        if worker.card.kind != kind:
            raise Broken("class", f"audit {audit.audit_id} of a {kind} went to {worker.name}")

    def _arbiter(self, arbiter: Audit, before: Audit | None) -> None:
        """Worker, auditor, buyer and arbiters are of different owners; few are asked at a time."""
        parent = self._audits[arbiter.parent_id]
        asked = self._arbiters_of(parent)
        waiting = [other for other in asked if other.phase in _OPEN]
        if len(waiting) > ARBITERS:
            raise Broken("arbiters", f"{len(waiting)} are asked at a time in {parent.audit_id}")
        times = sum(other.auditors == arbiter.auditors for other in asked)
        if times > MAX_ARBITER_PASSES:
            raise Broken("arbiters", f"{arbiter.auditors[:8]} is asked {times} times")
        if before is None:
            silent = [it for it in asked if it.finding == "SILENT" and it != arbiter]
            if any(other.auditors == arbiter.auditors for other in silent):
                raise Broken("arbiters", f"{arbiter.auditors[:8]} said nothing and is asked again")
        segment = self._laws.known("segment")[arbiter.question_id]
        owners = [
            self._owner(segment["device_key_id"]),
            self._laws.known("job")[segment["job_id"]]["buyer"],
            *(self._owner(other.key_id) for other in (parent, *asked) if other.key_id),
        ]
        if arbiter.key_id and len(set(owners)) < len(owners):
            raise Broken("arbiters", f"somebody has two voices in {parent.audit_id}")

    def _arbiters_of(self, parent: Audit) -> list[Audit]:
        return [other for other in self._audits.values() if other.parent_id == parent.audit_id]

    def _leased(self) -> None:
        """Work goes to devices of the class, and not to those whose unit was undecided."""
        for rowid, lease_id, job_id, offer_id, key_id, audit_id in self._raw.execute(
            "SELECT rowid, lease_id, job_id, offer_id, device_key_id, audit_id FROM lease "
            "WHERE rowid > ? ORDER BY rowid",
            (self._leases,),
        ):
            self._leases = rowid
            kind = self.kind_of(job_id)
            if kind and self._laws.workers[key_id].card.kind != kind:
                raise Broken("class", f"lease {lease_id} of a {kind} went to another card")
            if not audit_id and (job_id, offer_id) in self._elsewhere:
                raise Broken("goes-elsewhere", f"lease {lease_id} is of one that left it undecided")
        self._elsewhere = {
            (job_id, offer_id)
            for job_id, offer_id in self._raw.execute(
                "SELECT job_id, offer_id FROM segment "
                "WHERE state = 'void' AND reason = 'CLASS_UNDECIDED'"
            )
        }

    def _in_time(self) -> None:
        """Nobody is waited for longer than is said, arbiters included."""
        if not self._laws.place.settled:
            return
        late_us = self._laws.place.now_us() - LATE_US
        for audit_id, purpose, phase in self._raw.execute(
            f"SELECT audit_id, purpose, phase FROM audit WHERE phase IN {_WAITED} "
            "AND deadline_us < ?",
            (late_us,),
        ):
            raise Broken("audit-deadline", f"{purpose} {audit_id} is {phase} and its time is over")

    # --- what is decided ----------------------------------------------------------------------

    def _decided(self, audit: Audit) -> None:
        """Who loses stands alone against three accounts, or against a worker of the house; and
        where somebody does, he loses."""
        worker, auditor, others = self._votes(audit)
        if worker.ends == auditor.ends:  # its worker was banned before it opened
            self._was_paid(audit, True)
            return
        sides = {"REFUTED": (worker, auditor), "CONFIRMED": (auditor, worker)}
        lost = {
            finding: self._loses(loser, winner, others)
            for finding, (loser, winner) in sides.items()
        }
        said = f"audit {audit.audit_id}: {self._in_words(worker, auditor, others)}"
        if audit.finding == "UNDECIDED":
            if any(lost.values()):
                raise Broken("undecided", said)
            self._left_undecided(audit)
            return
        if not lost[audit.finding]:
            raise Broken("outvoted", f"{audit.finding} without enough votes; {said}")
        loser, winner = sides[audit.finding]
        self._laws.seen[f"class {audit.finding}"] += 1
        if loser.right:
            equal = {vote.owner for vote in (winner, *others) if vote.ends == winner.ends}
            if len(equal) < ENOUGH:
                raise Broken("false-accusation", f"{said}: {len(equal)} made {loser.key_id[:8]} it")
            self._laws.seen["honest device outvoted by three"] += 1
        self._pays(audit, paid=audit.finding == "REFUTED")

    def _loses(self, loser: Said, winner: Said, others: Sequence[Said]) -> bool:
        votes = (winner, *others)
        if loser.house or any(vote.ends == loser.ends for vote in votes):
            return False
        house = {vote.ends for vote in votes if vote.house}
        if house:
            return house == {winner.ends}
        return len({vote.owner for vote in votes if vote.ends == winner.ends}) >= ENOUGH

    def _left_undecided(self, audit: Audit) -> None:
        """Both have a strike, the auditor no pay."""
        self._laws.seen["class UNDECIDED"] += 1
        segment = self._laws.known("segment")[audit.question_id]
        for key_id in (audit.key_id, segment["device_key_id"]):
            (strikes,) = self._raw.execute(
                "SELECT count(*) FROM strike WHERE kind = 'class-undecided' AND device_key_id = ?",
                (key_id,),
            ).fetchone()
            if not strikes:
                raise Broken("undecided", f"{key_id[:8]} has no strike for {audit.audit_id}")
        self._pays(audit, paid=False)

    def _pays(self, audit: Audit, *, paid: bool) -> None:
        """Auditor and arbiters are paid for answers that somebody else gave, too; of an undecided
        difference the auditor never is."""
        worker, auditor, others = self._votes(audit)
        self._was_paid(audit, paid)
        votes = (worker, auditor, *others)
        said = {vote.key_id: vote.ends for vote in votes}
        many = Counter(vote.ends for vote in votes)
        for arbiter in self._arbiters_of(audit):
            if arbiter.lease_id:
                shared = arbiter.key_id in said and many[said[arbiter.key_id]] > 1
                self._was_paid(arbiter, bool(arbiter.secret) and shared)

    def _was_paid(self, audit: Audit, right: bool) -> None:
        row = self._raw.execute(
            "SELECT state FROM audit_pay WHERE lease_id = ?", (audit.lease_id,)
        ).fetchone()
        if row is not None and (row[0] == "paid") != right:
            raise Broken("class-pay", f"{audit.purpose} {audit.audit_id}: its pay is {row[0]}")

    # --- void units, and votes that pay nobody --------------------------------------------------

    def _voided(self) -> None:
        """A void unit was never paid or billed."""
        for segment_id, paid, held in self._raw.execute(
            "SELECT segment_id, settled_at_us, held_state FROM segment JOIN job USING (job_id) "
            "WHERE job.mode = 'class' AND segment.state = 'void' "
            "AND segment.reason IN ('CLASS_UNDECIDED', 'BUILT_ON_VOID')"
        ):
            if segment_id in self._void:
                continue
            self._void.add(segment_id)
            self._laws.seen["class unit void"] += 1
            if paid or held in ("held", "waiting", "released"):
                raise Broken("void-unit", f"segment {segment_id} is void and was paid")
            self._moved_nothing(segment_id)

    def _moved_nothing(self, segment_id: int) -> None:
        row = self._raw.execute(
            "SELECT transfer_id, purpose FROM transfer WHERE reference = ? AND purpose <> 'slash'",
            (f"segment {segment_id}",),
        ).fetchone()
        if row is not None:
            raise Broken("void-unit", f"segment {segment_id} is void, and {row[0]} is {row[1]}")

    def _paid(self) -> None:
        """Who was outvoted pays nobody a finder's share."""
        before, self._transfer = self._transfer, self._laws.newest_transfer
        for (reference,) in self._raw.execute(
            "SELECT reference FROM transfer WHERE number > ? AND purpose = 'slash' "
            "AND debit = 'platform/escrow' AND credit NOT LIKE 'platform/%' ORDER BY number",
            (before,),
        ):
            segment = reference.removeprefix("segment ")
            row = self._raw.execute(
                "SELECT reason FROM segment WHERE segment_id = ?",
                (int(segment) if segment.isdigit() else 0,),
            ).fetchone()
            if row is not None and row[0] == "CLASS_OUTVOTED":
                raise Broken("votes-pay", f"somebody has a share of the stake for {reference}")

    # --- asked by the other laws ----------------------------------------------------------------

    def kind_of(self, job_id: str) -> str:
        """Whose bits a job asks for; empty for the exact ones."""
        return kind_of_class(self._laws.known("job")[job_id]["device_class"])

    def lost_to_three(self, row: dict[str, Any]) -> bool:
        """Whether a right segment was rejected because three accounts of its class lied."""
        if row["reason"] != "CLASS_OUTVOTED":
            return False
        for values in self._raw.execute(
            _AUDITS.replace("WHERE", "WHERE question_id = ? AND finding = 'REFUTED' AND"),
            (row["segment_id"],),
        ):
            _, auditor, others = self._votes(Audit(*values))
            if self._liars(auditor, others) >= ENOUGH:
                self.misjudged.add(row["device_key_id"])
                return True
        return False

    def was_misjudged(self, key_id: str) -> bool:
        """Whether an honest device was banned because three accounts of its class lied."""
        if key_id in self.misjudged:
            return True
        for values in self._raw.execute(
            _AUDITS.replace("WHERE", "WHERE auditor_key_id = ? AND finding = 'CONFIRMED' AND"),
            (key_id,),
        ):
            worker, _, others = self._votes(Audit(*values))
            if self._liars(worker, others) >= ENOUGH:
                return True
        return False

    @staticmethod
    def _liars(first: Said, others: Sequence[Said]) -> int:
        """Owners that gave the same wrong answer as ``first``."""
        if first.right:
            return 0
        return len({vote.owner for vote in (first, *others) if vote.ends == first.ends})

    def of_house(self, key_id: str) -> bool:
        """Whether a device is the operator's, so that its word is the house's."""
        worker = self._laws.workers.get(key_id)
        if worker is None:
            return False
        name = f"house/{worker.account}"
        row = self._raw.execute("SELECT 1 FROM setting WHERE name = ?", (name,)).fetchone()
        return row is not None

    def judges(self, segment_id: int) -> bool:
        """Whether a segment is for its class to look at, not for the house."""
        return bool(self._kind(segment_id))

    def looked_at(self, segment_id: int) -> bool:
        """Whether what a convicted device did for its class was put up for the class, or its job
        may not run any more. False of exact jobs, which the house looks at."""
        if not self.judges(segment_id):
            return False
        row = self._raw.execute(
            "SELECT max(audit.phase <> 'ended' OR audit.purpose = 'look-back') FROM audit "
            "WHERE segment_id = ?",
            (segment_id,),
        ).fetchone()
        job = self._laws.known("job")[self._laws.known("segment")[segment_id]["job_id"]]
        return bool(row[0]) or job["deadline_us"] <= self._laws.place.now_us()

    # --- votes ----------------------------------------------------------------------------------

    def _votes(self, audit: Audit) -> tuple[Said, Said, list[Said]]:
        """What the worker, its auditor and everybody else said about the segment in question."""
        row = self._raw.execute(
            "SELECT device_key_id, root_after, outputs_root FROM segment WHERE segment_id = ?",
            (audit.question_id,),
        ).fetchone()
        worker = self._said(audit.question_id, row[0], (row[1], row[2]))
        auditor = self._answer(audit)
        assert auditor is not None, "somebody was found wrong by it"
        others: list[Said] = []
        for values in self._raw.execute(
            _AUDITS.replace("WHERE", "WHERE question_id = ? AND"), (audit.question_id,)
        ):
            other = Audit(*values)
            if other.parent_id == audit.audit_id and other.secret:
                vote = self._answer(other)
            elif other.outcome == "EQUAL" and not other.parent_id and other.phase == "ended":
                vote = self._answer(other)  # found it right before
            else:
                continue
            known = {worker.owner, auditor.owner, *(it.owner for it in others)}
            if vote is not None and vote.owner not in known:
                others.append(vote)
        return worker, auditor, others

    def _answer(self, audit: Audit) -> Said | None:
        row = self._raw.execute(
            "SELECT audit_commitment.root_after, audit_commitment.outputs_root "
            "FROM audit_commitment JOIN segment ON segment.segment_id = ? "
            "AND segment.segment_index = audit_commitment.segment_index "
            "WHERE audit_commitment.lease_id = ?",
            (audit.question_id, audit.lease_id),
        ).fetchone()
        return (
            None if row is None else self._said(audit.question_id, audit.key_id, (row[0], row[1]))
        )

    def _said(self, segment_id: int, key_id: str, ends: tuple[bytes, bytes]) -> Said:
        job, before, first, steps = self._raw.execute(
            "SELECT job_id, root_before, first_step, steps FROM segment WHERE segment_id = ?",
            (segment_id,),
        ).fetchone()
        ran = arithmetic.run(bytes.fromhex(job), before, first, steps, self.kind_of(job))
        right = ends == (ran.root_after, ran.outputs_root)
        return Said(key_id, self._owner(key_id), ends, right, self.of_house(key_id))

    def _owner(self, key_id: str) -> str:
        return self._laws.workers[key_id].account

    def _kind(self, segment_id: int) -> str:
        return self.kind_of(self._laws.known("segment")[segment_id]["job_id"])

    @staticmethod
    def _in_words(worker: Said, auditor: Said, others: Sequence[Said]) -> str:
        def word(vote: Said) -> str:
            house = ", the house's" if vote.house else ""
            return f"{vote.key_id[:8]}{house} {vote.ends[1].hex()[:6]} right={vote.right}"

        heard = "; ".join(word(vote) for vote in others)
        return f"worker {word(worker)}, auditor {word(auditor)}, others [{heard}]"
