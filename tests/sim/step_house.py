"""The house's look at drawn steps, as its auditor does it, with pretended tensors."""

from __future__ import annotations

from dataclasses import replace

from flopmarket.errors import InvalidInput
from flopmarket.jobs.checksums import ChecksumList
from flopmarket.trust import step_audit
from flopmarket.trust.step_audit import DrawnState, Finding, OneStep, StepCode
from flopmarket_coordinator.application.types_auditing import (
    AuditKind,
    AuditResult,
    AuditTask,
    FilesResult,
    PathDiffers,
)
from flopmarket_coordinator.application.types_steps import StepsFound, StepTask
from tests.sim.arithmetic import EMPTY
from tests.sim.house import House
from tests.sim.stories import entry, one_step, right_story, state_words


class StepHouse(House):
    """Its third loop runs steps."""

    def result(self, task: AuditTask) -> AuditResult | FilesResult | PathDiffers | StepsFound:
        """What an honest engine finds."""
        if task.kind is AuditKind.STEPS:
            assert task.step_task is not None
            files = super().result(replace(task, kind=AuditKind.FILES))
            assert isinstance(files, FilesResult)
            finding = self.look_at(task.step_task)
            return StepsFound(finding, files.outputs_artifact_root, files.checkpoint_artifact_root)
        found = super().result(task)
        if isinstance(found, AuditResult):
            job = bytes.fromhex(task.job_id)
            right = right_story(job, task.state_root_before, task.first_step, task.steps)
            return replace(found, inner=right.ran.inner)
        return found

    def look_at(self, task: StepTask) -> Finding:
        """The order of the real one: the files by themselves, then each drawn step."""
        shelf, body = self.place.shelf, task.body
        roots = shelf.stored[task.claim.roots.hex()]
        try:
            sums = ChecksumList.from_bytes(shelf.stored[task.claim.checksums.hex()])
        except InvalidInput as error:
            return Finding(StepCode.UNUSABLE, 0, error.message)
        words = 1 if body.state_root_before == EMPTY else 2
        if (sums.first_step, sums.steps, sums.words) != (body.first_step, body.steps_done, words):
            return Finding(StepCode.UNUSABLE, 0, "the list is of another segment")
        if sums.inner() != task.claim.inner:
            return Finding(StepCode.UNUSABLE, 0, "the list does not hash to what was hidden")
        found = step_audit.check_roots(roots, body)
        rows = shelf.inside.get(shelf.root_in(task.outputs_artifact) or b"", ())
        if found == step_audit.EQUAL:
            found = self._outputs(rows, sums)
        for drawn in task.answer.states if found == step_audit.EQUAL else ():
            found = self._one(task, roots, sums, rows, drawn)
            if found != step_audit.EQUAL:
                break
        return found

    @staticmethod
    def _outputs(rows: tuple[bytes, ...], sums: ChecksumList) -> Finding:
        if len(rows) != sums.steps:
            detail = f"outputs of {len(rows)} steps"
            return Finding(StepCode.DIFFERS, sums.first_step, detail)
        for step, row in zip(range(sums.first_step, sums.end_step), rows, strict=True):
            if sums.entry(step)[-4:] != row[:4]:
                return Finding(StepCode.DIFFERS, step, "the outputs have other checksums")
        return step_audit.EQUAL

    def _one(
        self,
        task: StepTask,
        roots: bytes,
        sums: ChecksumList,
        rows: tuple[bytes, ...],
        drawn: DrawnState,
    ) -> Finding:
        body, step = task.body, drawn.step
        state = self.place.shelf.stored[drawn.state.hex()]
        if len(state) != len(EMPTY):
            return Finding(StepCode.UNUSABLE, step, "the state cannot be read")
        after, row = one_step(body.job_id, state, step)
        before = state_words(state) if step > sums.first_step else b""
        claimed = OneStep(
            step_audit.root_at(roots, body, step),
            step_audit.root_at(roots, body, step + 1),
            sums.entry(step - 1)[: len(before)] if step > sums.first_step else b"",
            sums.entry(step),
            rows[step - sums.first_step],
        )
        return step_audit.judge_step(
            step, claimed, OneStep(state, after, before, entry(after, row), row)
        )
