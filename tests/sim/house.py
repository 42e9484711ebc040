"""The house's engine: reads files, recomputes what it is asked to, at the pace of virtual time.

Loops as the real auditor's, one for files and one for recomputations, with pretended bits. The
referee beside it stands in for the lists of a dispute: it knows which party's roots are right.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from flopmarket.errors import FlopmarketError
from flopmarket.trust.dispute_documents import (
    NOWHERE,
    DisputeVerdict,
    Level,
    Outcome,
    Reason,
)
from flopmarket.trust.dispute_port import Place as Somewhere
from flopmarket_coordinator.application import Application
from flopmarket_coordinator.application.types_auditing import (
    AuditKind,
    AuditResult,
    AuditTask,
    FilesResult,
    PathDiffers,
)
from flopmarket_coordinator.application.types_disputes import RefereeFinding
from flopmarket_coordinator.store.disputes import DisputeRow
from flopmarket_coordinator.store.engine import Transaction
from tests.sim import arithmetic
from tests.sim.arithmetic import EMPTY, Ran
from tests.sim.broken import Broken
from tests.sim.place import Place
from tests.sim.schedule import SECOND_US, Dice

RETRY_US = 5 * SECOND_US
REFEREE_US = 10 * SECOND_US


class House:
    """One loop a kind of task, one task at a time in each. Its engine may die."""

    def __init__(self, place: Place, dice: Dice) -> None:
        self.place = place
        self.dice = dice
        self.dies = 0.0
        self._life = 0
        self._busy: dict[AuditKind, bool] = {}
        self._put_off: dict[tuple[AuditKind, str], int] = {}
        self._refereed_us = 0
        place.after_tick.append(self.look)
        place.after_start.append(self._restarted)
        self._restarted()

    def _restarted(self) -> None:
        self._life += 1
        self._busy = dict.fromkeys(AuditKind, False)
        self._put_off.clear()
        self.place.look_again()

    def look(self) -> None:
        """Take a task of each kind, if there is one and the loop is free."""
        place = self.place
        if not place.up:
            return
        now_us = place.schedule.now_us
        waiting = {at: until for at, until in self._put_off.items() if until > now_us}
        due, self._put_off = len(waiting) < len(self._put_off), waiting
        if place.segments_changed() or due:
            for kind in AuditKind:
                if not self._busy[kind]:
                    self._take(kind)
        if now_us - self._refereed_us >= REFEREE_US:
            self._refereed_us = now_us
            self._judge_disputes()

    def _take(self, kind: AuditKind) -> None:
        place = self.place
        excluded = frozenset(job for what, job in self._put_off if what is kind)
        task = place.read(lambda tx: place.application.next_audit(tx, excluded, kind))
        if task is None:
            return
        self._busy[kind] = True
        seconds = (0.05, 0.3) if kind is AuditKind.FILES else (0.2, 1.5)
        place.schedule.after(self.dice.between_us(*seconds), self._finish, self._life, task)

    def _finish(self, life: int, task: AuditTask) -> None:
        if life != self._life or not self.place.up:
            return
        if self.dice.chance(self.dies):
            self._busy[task.kind] = False
            self._put_off[task.kind, task.job_id] = self.place.schedule.now_us + RETRY_US
            return
        result = self.result(task)
        application = self.place.application

        def done(answer: Any, error: FlopmarketError | None) -> None:
            if life == self._life:
                self._busy[task.kind] = False
                self.place.look_again()
                if error is not None:
                    raise error
                self.place.trace.tell(
                    f"house {task.kind} {task.job_id[:6]} segment {task.segment_index}: "
                    f"{answer.reason_code} {answer.applied}"
                )

        self.place.submit(lambda tx: application.audit_finished(tx, task, result), done)

    def result(self, task: AuditTask) -> AuditResult | FilesResult | PathDiffers:
        """What an honest engine finds, from the last durable state on."""
        shelf, job = self.place.shelf, bytes.fromhex(task.job_id)
        files = (shelf.root_in(task.outputs_artifact), shelf.root_in(task.checkpoint_artifact))
        if task.checkpoint_artifact and task.state_root_after == EMPTY:
            files = (files[0], EMPTY)
        if task.kind is AuditKind.FILES:
            return FilesResult(*files)
        root, step = task.replay_root, task.replay_step
        for part in task.path:
            ran = arithmetic.run(job, root, part.first_step, part.steps)
            root, step = ran.root_after, part.end_step
            if (root, ran.outputs_root) != (part.root_after, part.outputs_root):
                if part.recomputed:
                    raise Broken("replay", f"segment {part.segment_id} was right and is not")
                return PathDiffers(part.segment_id, root, ran.outputs_root)
        if root != EMPTY and step < task.first_step:
            root = arithmetic.advance(root, step, task.first_step - step)
        if root != task.state_root_before:
            raise Broken("replay", f"job {task.job_id[:6]} at step {step} is in another state")
        ran = arithmetic.run(job, root, task.first_step, task.steps)
        return AuditResult(ran.root_after, ran.outputs_root, *files, inner=ran.inner)

    # --- disputes -----------------------------------------------------------------------------

    def _judge_disputes(self) -> None:
        place = self.place
        for row in place.read(place.application.open_disputes):
            finding = self._finding(row)
            assert finding.verdict is not None
            place.trace.tell(f"dispute {row.dispute_id[:6]}: {finding.verdict.outcome}")
            place.submit(partial(_judged, place.application, finding), _refereed)

    def _finding(self, row: DisputeRow) -> RefereeFinding:
        """Who is wrong, by the bits themselves."""
        opening = row.question
        right = arithmetic.run(
            opening.job_id, opening.state_root_before, opening.first_step, opening.steps
        )
        wrong = [not _agrees(claim, right) for claim in (opening.producer, opening.auditor)]
        outcome = {
            (True, False): Outcome.PRODUCER_WRONG,
            (False, True): Outcome.AUDITOR_WRONG,
            (True, True): Outcome.BOTH_WRONG,
        }[wrong[0], wrong[1]]
        verdict = DisputeVerdict(
            dispute_id=bytes.fromhex(row.dispute_id),
            outcome=outcome,
            reason=Reason.WRONG_VALUE,
            step=NOWHERE,
            operation=NOWHERE,
            tile=NOWHERE,
            tiles=0,
            differing_tiles=0,
            producer_wrong_bits=0,
            auditor_wrong_bits=0,
            seen="simulated",
            remedy="none",
        )
        return RefereeFinding(
            dispute_id=row.dispute_id,
            handled=row.event_count,
            refused=(),
            level=Level.STEPS,
            place=Somewhere(NOWHERE, NOWHERE, NOWHERE),
            deadline_us=row.deadline_us,
            verdict=verdict,
        )


def _agrees(claim: Any, right: Ran) -> bool:
    return (claim.state_root_after, claim.outputs_root) == (right.root_after, right.outputs_root)


def _judged(application: Application, finding: RefereeFinding, tx: Transaction) -> bool:
    return application.dispute_judged(tx, finding)


def _refereed(answer: Any, error: FlopmarketError | None) -> None:
    if error is not None:
        raise error
