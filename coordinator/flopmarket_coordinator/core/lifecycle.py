"""States of jobs, segments and leases, and the only transitions that exist.

An illegal transition is a bug, never a user's fault: it raises with the object's story so that the
cause can be read from the error alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import TypeVar

from flopmarket.errors import FlopmarketError


class JobState(StrEnum):
    """Where a job is. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    VERIFYING = "verifying"
    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"
    FAILED = "failed"


class SegmentState(StrEnum):
    """Where a committed segment is. Settled is final unless a fault is found late."""

    COMMITTED = "committed"
    VERIFIED = "verified"
    SETTLED = "settled"
    REJECTED = "rejected"
    VOID = "void"


class LeaseState(StrEnum):
    """Where a lease is. Offered and running are live; the others are final."""

    OFFERED = "offered"
    RUNNING = "running"
    FINISHED = "finished"
    RELEASED = "released"
    EXPIRED = "expired"
    REVOKED = "revoked"


FINAL_JOB_STATES = frozenset({JobState.SUCCEEDED, JobState.CANCELLED, JobState.FAILED})
LIVE_LEASE_STATES = frozenset({LeaseState.OFFERED, LeaseState.RUNNING})
LIVE_SEGMENT_STATES = frozenset(
    {SegmentState.COMMITTED, SegmentState.VERIFIED, SegmentState.SETTLED}
)

_ENDS = FINAL_JOB_STATES - {JobState.SUCCEEDED}
JOB_TRANSITIONS: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        JobState.QUEUED: _ENDS | {JobState.RUNNING, JobState.VERIFYING},
        JobState.RUNNING: _ENDS | {JobState.QUEUED, JobState.VERIFYING},
        JobState.VERIFYING: FINAL_JOB_STATES | {JobState.QUEUED, JobState.RUNNING},
        JobState.SUCCEEDED: frozenset(),
        JobState.CANCELLED: frozenset(),
        JobState.FAILED: frozenset(),
    }
)
SEGMENT_TRANSITIONS: Mapping[SegmentState, frozenset[SegmentState]] = MappingProxyType(
    {
        SegmentState.COMMITTED: frozenset(
            {SegmentState.VERIFIED, SegmentState.REJECTED, SegmentState.VOID}
        ),
        SegmentState.VERIFIED: frozenset(
            {SegmentState.SETTLED, SegmentState.REJECTED, SegmentState.VOID}
        ),
        # A fault found late: what was paid is given back.
        SegmentState.SETTLED: frozenset({SegmentState.REJECTED, SegmentState.VOID}),
        SegmentState.REJECTED: frozenset(),
        # Built on a wrong state, and wrong even from there.
        SegmentState.VOID: frozenset({SegmentState.REJECTED}),
    }
)
LEASE_TRANSITIONS: Mapping[LeaseState, frozenset[LeaseState]] = MappingProxyType(
    {
        LeaseState.OFFERED: frozenset(
            {LeaseState.RUNNING, LeaseState.RELEASED, LeaseState.EXPIRED, LeaseState.REVOKED}
        ),
        LeaseState.RUNNING: frozenset(
            {LeaseState.FINISHED, LeaseState.RELEASED, LeaseState.EXPIRED, LeaseState.REVOKED}
        ),
        LeaseState.FINISHED: frozenset(),
        LeaseState.RELEASED: frozenset(),
        LeaseState.EXPIRED: frozenset(),
        LeaseState.REVOKED: frozenset(),
    }
)

State = TypeVar("State", JobState, SegmentState, LeaseState)


class IllegalTransition(FlopmarketError):
    """A state machine was asked for a change it does not have. A bug; the message tells which."""

    default_code = "ILLEGAL_TRANSITION"


def check_transition(
    table: Mapping[State, frozenset[State]],
    current: State,
    target: State,
    *,
    name: str,
    story: Sequence[str] = (),
) -> State:
    """``target`` if the table has the step; :class:`IllegalTransition` with the story otherwise.

    ``name`` names the object, such as ``job ab12``; ``story`` is what happened to it so far.
    """
    if target not in table[current]:
        told = "; ".join(story) or "nothing recorded"
        raise IllegalTransition(
            f"{name} cannot go from {current} to {target}. Story: {told}",
            details={"object": name, "from": str(current), "to": str(target)},
        )
    return target
