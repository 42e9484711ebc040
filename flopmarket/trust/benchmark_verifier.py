"""The verifier's side of a benchmark challenge, as a machine of values, and the check of a report.

The caller stamps every message with its own clock when it arrives and hands the stamp in; nothing
that the device says about time is used. :meth:`BenchmarkVerifier.open` returns what has to be
recomputed; the answers of the reference (or of any admitted device: the bits are the same) go into
:meth:`BenchmarkVerifier.conclude`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from flopmarket.errors import Conflict, InvalidInput
from flopmarket.trust.benchmark import (
    NO_RATES,
    REMEDIES,
    BenchmarkOpening,
    BenchmarkPlan,
    BenchmarkReason,
    BenchmarkReport,
    BenchmarkStart,
    BlockPlace,
    OpeningRequest,
    Place,
    Rates,
    ReadPlace,
    StageClaim,
    TilePlace,
    challenge_digest,
    leaf_of,
    places,
    rates,
    sampling_commitment,
    stage_key,
    strides_of,
)
from flopmarket.trust.encoding import DIGEST_BYTES, digest
from flopmarket.trust.errors import MerkleError
from flopmarket.trust.merkle import leaf_hash, root_from_proof

_NOTHING = bytes(DIGEST_BYTES)


class Phase(StrEnum):
    """Where a challenge stands."""

    OFFERED = "offered"
    RUNNING = "running"
    OPENING = "opening"
    RECOMPUTING = "recomputing"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Task:
    """One place to recompute and what the device claims for it.

    ``key`` is that of the place's stage. ``walk_key`` and ``strides`` are those of the walk that
    made the array: a block's own stage, or the one before for a read, whose position ``key`` draws.
    """

    place: Place
    key: bytes
    claimed: bytes
    walk_key: bytes = b""
    strides: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of a challenge. ``detail`` says what was seen, ``remedy`` what to do about it."""

    reason: BenchmarkReason
    detail: str
    rates: Rates

    @property
    def accepted(self) -> bool:
        """Whether the rates may be used."""
        return self.reason is BenchmarkReason.ACCEPTED

    @property
    def remedy(self) -> str:
        """What the owner can do."""
        return REMEDIES[self.reason]


class BenchmarkVerifier:
    """One challenge. Whatever the device does wrong, a message out of turn included, ends in a
    verdict; Conflict (BENCHMARK_ORDER) is for an owner who concludes or reports too early."""

    def __init__(
        self, plan: BenchmarkPlan, *, nonce: bytes, sampling_seed: bytes, offered_at_us: int
    ) -> None:
        if plan.sampling_commitment != sampling_commitment(sampling_seed):
            raise InvalidInput("the plan commits to another seed", code="BENCHMARK_PLAN")
        self.plan = plan
        self.phase = Phase.OFFERED
        self.verdict: Verdict | None = None
        self._start = BenchmarkStart(digest(plan), nonce)
        self._challenge = challenge_digest(self._start)
        self._sampling_seed = sampling_seed
        self._last_us = offered_at_us
        self._sent_us = 0
        self._roots: list[bytes] = []
        self._arrived_us: list[int] = []
        self._opening_digest = _NOTHING
        self._tasks: tuple[Task, ...] = ()

    @property
    def deadline_us(self) -> int | None:
        """When :meth:`expire` has something to say; None when nothing is waited for."""
        allowed = {
            Phase.OFFERED: self.plan.ready_us,
            Phase.RUNNING: self.plan.stage_us,
            Phase.OPENING: self.plan.opening_us,
        }.get(self.phase)
        return None if allowed is None else self._last_us + allowed

    def ready(self, now_us: int) -> BenchmarkStart | None:
        """The device has its kernels; the nonce to send now. None when it came too late."""
        if not self._awaits(Phase.OFFERED, "ready", now_us):
            return None
        self.phase = Phase.RUNNING
        self._sent_us = self._last_us = now_us
        return self._start

    def claim(self, claim: StageClaim, now_us: int) -> OpeningRequest | None:
        """A root arrived at ``now_us``. The request to send after the last one."""
        if not self._awaits(Phase.RUNNING, f"the claim of stage {claim.stage}", now_us):
            return None
        number = len(self._roots)
        if claim.challenge != self._challenge:
            self._end(BenchmarkReason.OTHER_CHALLENGE, f"at stage {number}")
            return None
        if claim.stage != number:
            self._end(
                BenchmarkReason.STAGE_OUT_OF_ORDER, f"stage {claim.stage} in place of {number}"
            )
            return None
        self._roots.append(claim.root)
        self._arrived_us.append(now_us)
        self._last_us = now_us
        if len(self._roots) < self.plan.shapes.stage_count:
            return None
        self.phase = Phase.OPENING
        return OpeningRequest(self._challenge, self._sampling_seed)

    def open(self, opening: BenchmarkOpening, now_us: int) -> tuple[Task, ...]:
        """The places were opened at ``now_us``; what to recompute, nothing when a verdict fell."""
        if not self._awaits(Phase.OPENING, "an opening", now_us):
            return ()
        self._opening_digest = digest(opening)
        checked = check_opening(self.plan, self._start, self._roots, self._sampling_seed, opening)
        if isinstance(checked, Verdict):
            self._end(checked.reason, checked.detail)
            return ()
        self.phase = Phase.RECOMPUTING
        self._tasks = checked
        return checked

    def conclude(self, recomputed: Sequence[bytes]) -> Verdict:
        """The verdict, from what each task came to, in the order of the tasks."""
        if self.phase is not Phase.RECOMPUTING:
            raise _out_of_order(f"the challenge is {self.phase}: there is nothing to conclude")
        wrong = compare(self._tasks, recomputed)
        if wrong is not None:
            return self._end(wrong.reason, wrong.detail)
        found = rates(self.plan, self._sent_us, self._arrived_us)
        self.verdict = Verdict(BenchmarkReason.ACCEPTED, "", found)
        self.phase = Phase.ENDED
        return self.verdict

    def malformed(self, detail: str) -> Verdict:
        """The device sent what is no document at all; the verdict, or the one there is."""
        return self.verdict or self._end(BenchmarkReason.MALFORMED, detail)

    @property
    def start(self) -> BenchmarkStart:
        """What :meth:`ready` returns."""
        return self._start

    @property
    def roots(self) -> tuple[bytes, ...]:
        """What arrived so far."""
        return tuple(self._roots)

    def expire(self, now_us: int) -> Verdict | None:
        """The verdict when a deadline has passed, or the one there is."""
        deadline = self.deadline_us
        if deadline is None or now_us <= deadline:
            return self.verdict
        late = f"{now_us - self._last_us} us, at most {deadline - self._last_us} are allowed"
        reason = {
            Phase.OFFERED: BenchmarkReason.NOT_READY,
            Phase.RUNNING: BenchmarkReason.STAGE_LATE,
            Phase.OPENING: BenchmarkReason.OPENING_LATE,
        }[self.phase]
        stage = f"stage {len(self._roots)}: " if self.phase is Phase.RUNNING else ""
        return self._end(reason, stage + late)

    def report(self) -> BenchmarkReport:
        """What the coordinator signs, once there is a verdict."""
        if self.verdict is None:
            raise _out_of_order("there is no verdict yet")
        found = self.verdict.rates
        return BenchmarkReport(
            plan=self.plan,
            nonce=self._start.nonce,
            sampling_seed=self._sampling_seed,
            sent_at_us=self._sent_us,
            roots=tuple(self._roots),
            arrived_at_us=tuple(self._arrived_us),
            opening_digest=self._opening_digest,
            reason=self.verdict.reason,
            detail=self.verdict.detail[:256],
            dot_flops_per_second=found.dot_flops_per_second,
            bandwidth_bytes_per_second=found.bandwidth_bytes_per_second,
            proven_memory_bytes=found.proven_memory_bytes,
        )

    def _awaits(self, phase: Phase, what: str, now_us: int) -> bool:
        """Whether a message of the device comes in time and in turn; what comes after the verdict
        changes nothing."""
        if self.expire(now_us) is not None:
            return False
        if self.phase is not phase:
            self._end(BenchmarkReason.STAGE_OUT_OF_ORDER, f"{what} while {self.phase}")
            return False
        return True

    def _end(self, reason: BenchmarkReason, detail: str) -> Verdict:
        self.verdict = Verdict(reason, detail, NO_RATES)
        self.phase = Phase.ENDED
        return self.verdict


def check_opening(
    plan: BenchmarkPlan,
    start: BenchmarkStart,
    roots: Sequence[bytes],
    sampling_seed: bytes,
    opening: BenchmarkOpening,
) -> tuple[Task, ...] | Verdict:
    """Every opened leaf against its root; what must be recomputed, or why it need not be."""
    if opening.challenge != challenge_digest(start):
        return _refusal(BenchmarkReason.OTHER_CHALLENGE, "the opening names another challenge")
    wanted = places(plan, sampling_seed)
    if len(opening.leaves) != len(wanted):
        return _refusal(
            BenchmarkReason.OPENING_INCOMPLETE, f"{len(opening.leaves)} leaves of {len(wanted)}"
        )
    tasks = []
    for place, opened in zip(wanted, opening.leaves, strict=True):
        index, first, size = leaf_of(plan, place)
        if (opened.stage, opened.proof.leaf_index) != (place.stage, index):
            return _refusal(BenchmarkReason.OPENING_INCOMPLETE, f"another leaf for {place}")
        count = plan.shapes.leaf_count(place.stage)
        length = plan.shapes.leaf_bytes(place.stage)
        if opened.proof.leaf_count != count or len(opened.leaf) != length:
            return _refusal(
                BenchmarkReason.SHAPE_WRONG,
                f"stage {place.stage} has {count} leaves of {length} bytes, the opening has "
                f"{opened.proof.leaf_count} of {len(opened.leaf)}",
            )
        try:
            reached = root_from_proof(leaf_hash(opened.leaf), opened.proof)
        except MerkleError as error:
            return _refusal(BenchmarkReason.PROOF_INVALID, f"{place}: {error.message}")
        if reached != roots[place.stage]:
            return _refusal(BenchmarkReason.PROOF_INVALID, f"{place}: another root")
        tasks.append(_task(plan, start, roots, place, opened.leaf[first : first + size]))
    return tuple(tasks)


def compare(tasks: Sequence[Task], recomputed: Sequence[bytes]) -> Verdict | None:
    """The refusal for the first task that came out otherwise; None when all agree."""
    reasons = {
        TilePlace: BenchmarkReason.TILE_WRONG,
        BlockPlace: BenchmarkReason.BLOCK_WRONG,
        ReadPlace: BenchmarkReason.READ_WRONG,
    }
    for task, value in zip(tasks, recomputed, strict=True):
        if task.claimed != value:
            seen = f"{task.place}: claimed {task.claimed.hex()}, it is {value.hex()}"
            return _refusal(reasons[type(task.place)], seen)
    return None


def tasks_of(report: BenchmarkReport, opening: BenchmarkOpening) -> tuple[Task, ...] | Verdict:
    """What somebody else recomputes to check an accepted report.

    InvalidInput (BENCHMARK_REPORT) when the report contradicts itself: rates that do not follow
    from its stamps, a seed or opening it did not commit to, missing stages.
    """
    plan = report.plan
    stages = plan.shapes.stage_count
    if report.reason is not BenchmarkReason.ACCEPTED:
        raise _contradiction("only an accepted report claims rates")
    if plan.sampling_commitment != sampling_commitment(report.sampling_seed):
        raise _contradiction("its places were not fixed by its plan")
    if (len(report.roots), len(report.arrived_at_us)) != (stages, stages):
        raise _contradiction(f"it has not {stages} stages")
    if digest(opening) != report.opening_digest:
        raise _contradiction("this is not its opening")
    said = Rates(
        report.dot_flops_per_second,
        report.bandwidth_bytes_per_second,
        report.proven_memory_bytes,
    )
    if said != rates(plan, report.sent_at_us, report.arrived_at_us):
        raise _contradiction("its rates do not follow from its times")
    start = BenchmarkStart(digest(plan), report.nonce)
    return check_opening(plan, start, report.roots, report.sampling_seed, opening)


def _task(
    plan: BenchmarkPlan,
    start: BenchmarkStart,
    roots: Sequence[bytes],
    place: Place,
    claimed: bytes,
) -> Task:
    key = stage_key(start, place.stage, roots)
    memory = plan.shapes.memory
    if isinstance(place, TilePlace):
        return Task(place, key, claimed)
    walked = place.stage if isinstance(place, BlockPlace) else place.stage - 1
    walk_key = stage_key(start, walked, roots)
    return Task(place, key, claimed, walk_key, strides_of(walk_key, memory))


def _refusal(reason: BenchmarkReason, detail: str) -> Verdict:
    return Verdict(reason, detail, NO_RATES)


def _out_of_order(message: str) -> Conflict:
    return Conflict(message, code="BENCHMARK_ORDER")


def _contradiction(message: str) -> InvalidInput:
    return InvalidInput(f"the benchmark report is not sound: {message}", code="BENCHMARK_REPORT")
