"""How much of a segment the house looks at: all of it, or drawn steps where it is too big."""

from __future__ import annotations

from flopmarket.jobs.checksums import file_bytes
from flopmarket.limits import MAX_CHECKSUM_LIST_BYTES, MAX_STEP_STATES_BYTES
from flopmarket.trust.audit_policy import AuditRules, steps_of_budget
from flopmarket.trust.modes import Mode
from flopmarket_coordinator.application.context import ProgramFacts
from flopmarket_coordinator.application.tolerance_rules import judged_steps


def looked_at_steps(
    rules: AuditRules, facts: ProgramFacts, mode: Mode, steps: int, most_flops: int
) -> int:
    """Steps of a segment of ``steps`` that the house draws; 0 where it recomputes it whole, or has
    no part in it. ``most_flops`` are the operations that it spends on one segment.

    A segment whose list of checksums nobody keeps is recomputed whole, however long that takes.
    """
    if mode is Mode.CLASS:
        return 0
    if mode is Mode.TOLERANCE:
        return judged_steps(rules, steps, facts.state_bytes + facts.values.size_bytes)
    step_flops = sum(facts.work.flops.values())
    if step_flops * steps <= most_flops:
        return 0
    if file_bytes(steps, facts.checksum_words) > MAX_CHECKSUM_LIST_BYTES:
        return 0
    carried = MAX_STEP_STATES_BYTES // max(facts.state_bytes, 1)
    return min(steps_of_budget(rules, steps, step_flops, most_flops), max(carried, 1))
