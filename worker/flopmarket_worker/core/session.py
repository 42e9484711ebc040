"""The worker's side of every lease, as one pure state machine.

The agent feeds it events and carries out the instructions it returns; nothing else decides what a
device computes, what is reported, and when a lease ends. One device has at most one lease (and one
more that waits for the first one's cleaning up). The laws, which the tests state as properties:

- no lease (id and fence) is prepared again after it ended, and no segment is committed twice with
  different results;
- at most ``MAX_UNANSWERED_COMMITMENTS`` computed segments of a lease are unanswered;
- every lease that is prepared is closed exactly once, whatever happens in between;
- losing the connection changes nothing but what is sent: it is sent again after the next welcome.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from flopmarket.errors import LimitExceeded
from flopmarket.limits import MAX_ENDED_LEASES, MAX_UNSENT_RELEASES
from flopmarket_worker.core import events
from flopmarket_worker.core.events import (
    Abandon,
    Accept,
    Close,
    Commit,
    Event,
    Instruction,
    Interrupt,
    LeaseKey,
    LeaseTerms,
    Prepare,
    Release,
    ReleaseReason,
    Run,
    SegmentRecord,
    Upload,
)
from flopmarket_worker.core.leases import Ending, IllegalTransition, Lease, Phase

Instructions = list[Instruction]


class SessionMachine:
    """All leases of one agent. Not thread-safe; one event loop owns it."""

    def __init__(self, device_ids: frozenset[str]) -> None:
        self._devices = device_ids
        self._by_device: dict[str, Lease] = {}
        self._next: dict[str, LeaseTerms] = {}
        self._ended: OrderedDict[LeaseKey, Ending] = OrderedDict()
        self._unsent: OrderedDict[LeaseKey, Release] = OrderedDict()
        self._connected = False
        self._draining = False
        self._handlers: Mapping[type, Callable[[Any], Instructions]] = {
            events.Recovered: self._on_recovered,
            events.Connected: self._on_connected,
            events.Disconnected: self._on_disconnected,
            events.Offered: self._on_offered,
            events.OfferUnusable: self._on_offer_unusable,
            events.Revoked: self._on_revoked,
            events.Answered: self._on_answered,
            events.Prepared: self._on_prepared,
            events.JobFailed: self._on_job_failed,
            events.SegmentRan: self._on_segment_ran,
            events.ExecutorDied: self._on_executor_died,
            events.Uploaded: self._on_uploaded,
            events.UploadFailed: self._on_upload_failed,
            events.Closed: self._on_closed,
            events.DrainRequested: self._on_drain,
        }

    # ------------------------------------------------------------ public

    def handle(self, event: Event) -> tuple[Instruction, ...]:
        """What to do now. :class:`IllegalTransition` when the event cannot happen here."""
        return tuple(self._handlers[type(event)](event))

    @property
    def held(self) -> tuple[LeaseKey, ...]:
        """Leases to name in greetings and heartbeats."""
        live = [lease.terms.key for lease in self._by_device.values() if not self._given_up(lease)]
        return tuple(sorted([*live, *(terms.key for terms in self._next.values())]))

    @property
    def idle(self) -> bool:
        """Whether no lease is left, so that the worker may stop."""
        return not self._by_device and not self._next

    def has_work(self, device_id: str) -> bool:
        """Whether a device has a lease, or one that waits for it."""
        return device_id in self._by_device or device_id in self._next

    @property
    def draining(self) -> bool:
        """Whether no further lease is taken."""
        return self._draining

    def phase(self, key: LeaseKey) -> Phase | None:
        """The phase of a lease, ENDED if it ended, None if it was never here."""
        lease = self._find(key)
        if lease is not None:
            return lease.phase
        return Phase.ENDED if key in self._ended else None

    def describe(self) -> list[tuple[str, str, str]]:
        """(device, lease, phase) of every live lease, for people."""
        return [
            (device, lease.terms.key.lease_id, str(lease.phase))
            for device, lease in sorted(self._by_device.items())
        ]

    # ------------------------------------------------------------ connection

    def _on_recovered(self, event: events.Recovered) -> Instructions:
        terms = event.terms
        if terms.device_id not in self._devices or terms.device_id in self._by_device:
            return self._tell(
                Release(terms.key, ReleaseReason.DECLINED, f"no free device {terms.device_id[:16]}")
            )
        lease = Lease(terms, Phase.RECOVERED, accepted=True)
        lease.computed = list(event.computed)
        lease.uploaded = dict(event.uploaded)
        lease.answered = set(event.answered)
        self._by_device[terms.device_id] = lease
        return []

    def _on_connected(self, event: events.Connected) -> Instructions:
        self._connected = True
        out: Instructions = list(self._unsent.values())
        self._unsent.clear()
        kept = frozenset(event.kept)
        for device_id in [d for d, terms in self._next.items() if terms.key not in kept]:
            del self._next[device_id]
        for lease in list(self._by_device.values()):
            if self._given_up(lease):
                continue
            if lease.terms.key not in kept:
                lost = Ending(ReleaseReason.DECLINED, "no longer held", discard=True, tell=False)
                out += self._end(lease, lost)
            elif lease.phase is Phase.RECOVERED:
                out += self._take_up_again(lease)
            else:
                out += self._report_again(lease)
        return out

    def _on_disconnected(self, event: events.Disconnected) -> Instructions:
        self._connected = False
        return []

    def _take_up_again(self, lease: Lease) -> Instructions:
        out = self._report_again(lease)
        out += [
            Upload(lease.terms.key, record)
            for record in lease.computed
            if record.index not in lease.uploaded
        ]
        if lease.all_computed or self._draining:
            lease.position = len(lease.computed)
            return out + self._settle(lease, "recovered")
        return out + self._prepare(lease, "recovered")

    def _report_again(self, lease: Lease) -> Instructions:
        """What a lost connection may have swallowed; the coordinator ignores what it knows."""
        out: Instructions = []
        if lease.accepted and not lease.answered:
            out.append(Accept(lease.terms))
        for record in lease.computed:
            files = lease.uploaded.get(record.index)
            if files is not None and record.index not in lease.answered:
                out.append(Commit(lease.terms.key, record, files))
        return out

    # ------------------------------------------------------------ offers

    def _on_offered(self, event: events.Offered) -> Instructions:
        terms = event.terms
        if terms.key in self._ended:
            ending = self._ended[terms.key]
            return self._tell(Release(terms.key, ending.reason, f"ended before: {ending.detail}"))
        present = self._by_device.get(terms.device_id)
        if present is not None and present.terms.key == terms.key:
            return self._report_again(present)  # told twice
        if terms == self._next.get(terms.device_id):
            return []
        if self._draining:
            return self._tell(Release(terms.key, ReleaseReason.DRAINING, "the worker is stopping"))
        if terms.device_id not in self._devices:
            return self._on_offer_unusable(
                events.OfferUnusable(terms.key, f"no device {terms.device_id[:16]} here")
            )
        if present is None:
            return self._start(terms)
        if present.phase is Phase.CLOSING and terms.device_id not in self._next:
            self._next[terms.device_id] = terms
            return []
        return self._tell(
            Release(
                terms.key,
                ReleaseReason.DECLINED,
                f"the device is busy with lease {present.terms.key.lease_id}",
            )
        )

    def _on_offer_unusable(self, event: events.OfferUnusable) -> Instructions:
        ending = Ending(ReleaseReason.DECLINED, event.detail, discard=True, tell=True)
        self._remember(event.key, ending)
        return self._tell(Release(event.key, ending.reason, ending.detail))

    def _start(self, terms: LeaseTerms) -> Instructions:
        lease = Lease(terms, Phase.PREPARING)
        lease.story.append("offered")
        self._by_device[terms.device_id] = lease
        return [Prepare(terms, lease.resume_point())]

    def _on_revoked(self, event: events.Revoked) -> Instructions:
        for device_id, terms in list(self._next.items()):
            if terms.key == event.key:
                del self._next[device_id]
        lease = self._find(event.key)
        if lease is None:
            return []
        detail = f"revoked: {event.reason}"
        return self._end(lease, Ending(ReleaseReason.PREEMPTED, detail, discard=True, tell=False))

    # ------------------------------------------------------------ work

    def _on_prepared(self, event: events.Prepared) -> Instructions:
        lease = self._require(event.key, Phase.PREPARING, "Prepared")
        lease.note_state_size(event.state_bytes)
        out: Instructions = []
        if not lease.accepted and lease.ending is None:
            lease.accepted = True
            if self._connected:
                out.append(Accept(lease.terms))
        return out + self._settle(lease, "prepared")

    def _on_job_failed(self, event: events.JobFailed) -> Instructions:
        lease = self._find(event.key)
        if lease is None or lease.phase not in (Phase.PREPARING, Phase.RUNNING):
            raise self._unexpected(event.key, lease, "JobFailed")
        if lease.ending is None:
            # Segments computed before stay good and are reported.
            lease.ending = Ending(event.reason, event.detail, discard=False, tell=True)
        return self._settle(lease, f"job failed: {event.detail}")

    def _on_segment_ran(self, event: events.SegmentRan) -> Instructions:
        lease = self._require(event.key, Phase.RUNNING, "SegmentRan")
        if lease.ending is not None and lease.ending.discard:
            return self._settle(lease, "segment discarded")
        if lease.replaying:
            return self._check_replay(lease, event)
        index, first_step, planned_steps, keeps_state = lease.planned()
        before = lease.computed[-1].state_root_after if lease.computed else lease.terms.state_root
        if event.first_step != first_step or not 0 < event.steps <= planned_steps:
            raise lease.illegal(
                f"segment of {event.steps} steps from {event.first_step}, planned "
                f"{planned_steps} from {first_step}"
            )
        if event.state_root_before != before:
            return self._unstable(lease, f"segment {index} started from another state")
        end_step = first_step + event.steps
        # A last segment that was cut short is made durable too, or nobody could pay for it.
        cut_short = lease.ending is not None and end_step < lease.terms.end_step
        record = SegmentRecord(
            index=index,
            first_step=first_step,
            steps=event.steps,
            state_root_before=event.state_root_before,
            state_root_after=event.state_root_after,
            outputs_root=event.outputs_root,
            inner=event.inner,
            has_state=keeps_state,
            upload_state=keeps_state and (cut_short or lease.is_due(index, end_step)),
            times=event.times,
        )
        lease.computed.append(record)
        lease.position = len(lease.computed)
        return [
            Upload(lease.terms.key, record),
            *self._settle(lease, f"segment {index} ran {event.steps} steps"),
        ]

    def _check_replay(self, lease: Lease, event: events.SegmentRan) -> Instructions:
        """A segment run again after a restart must come to what it came to before."""
        record = lease.computed[lease.position]
        same = (
            event.steps == record.steps
            and event.state_root_after == record.state_root_after
            and event.outputs_root == record.outputs_root
        )
        if same:
            lease.position += 1
        elif lease.ending is None:
            return self._unstable(lease, f"segment {record.index} differs when run again")
        return self._settle(lease, f"segment {record.index} repeated")

    def _unstable(self, lease: Lease, detail: str) -> Instructions:
        lease.ending = Ending(ReleaseReason.EXECUTOR_DIED, detail, discard=True, tell=True)
        return self._settle(lease, detail)

    def _on_executor_died(self, event: events.ExecutorDied) -> Instructions:
        lease = self._find(event.key)
        if lease is None or lease.phase not in (Phase.PREPARING, Phase.RUNNING):
            raise self._unexpected(event.key, lease, "ExecutorDied")
        if lease.ending is None and lease.retries_left > 0:
            lease.retries_left -= 1
            return self._prepare(lease, f"executor died: {event.detail}")
        if lease.ending is None:
            lease.ending = Ending(
                ReleaseReason.EXECUTOR_DIED, event.detail, discard=False, tell=True
            )
        return self._settle(lease, f"executor died: {event.detail}")

    def _prepare(self, lease: Lease, cause: str) -> Instructions:
        point = lease.resume_point()
        lease.rewind(point)
        lease.enter(Phase.PREPARING, cause)
        return [Prepare(lease.terms, point)]

    # ------------------------------------------------------------ reports

    def _on_uploaded(self, event: events.Uploaded) -> Instructions:
        lease = self._find(event.key)
        if lease is None or lease.phase is Phase.CLOSING:
            return []  # the upload ended while the lease did
        record = next((r for r in lease.computed if r.index == event.segment_index), None)
        if record is None:
            raise lease.illegal(f"upload of segment {event.segment_index}, which was not computed")
        lease.uploaded[record.index] = event.files
        if not self._connected or (lease.ending is not None and lease.ending.discard):
            return []
        return [Commit(lease.terms.key, record, event.files)]

    def _on_upload_failed(self, event: events.UploadFailed) -> Instructions:
        lease = self._find(event.key)
        if lease is None:
            return []
        return self._end(
            lease, Ending(ReleaseReason.DECLINED, event.detail, discard=True, tell=True)
        )

    def _on_answered(self, event: events.Answered) -> Instructions:
        lease = next(
            (x for x in self._by_device.values() if x.terms.key.lease_id == event.lease_id), None
        )
        if lease is None or event.segment_index not in lease.uploaded:
            return []  # the answer to something of an earlier life
        if not event.accepted:
            detail = f"commitment {event.segment_index} refused: {event.code}"
            return self._end(lease, Ending(ReleaseReason.DECLINED, detail, discard=True, tell=True))
        lease.answered.add(event.segment_index)
        if lease.phase is not Phase.WAITING:
            return []
        return self._settle(lease, f"segment {event.segment_index} accepted")

    # ------------------------------------------------------------ ends

    def _on_drain(self, event: events.DrainRequested) -> Instructions:
        self._draining = True
        out: Instructions = []
        for terms in self._next.values():
            out += self._tell(Release(terms.key, ReleaseReason.DRAINING, "the worker is stopping"))
        self._next.clear()
        for lease in list(self._by_device.values()):
            if lease.ending is None and not lease.all_computed:
                out += self._end(
                    lease,
                    Ending(
                        ReleaseReason.DRAINING, "the worker is stopping", discard=False, tell=True
                    ),
                )
        return out

    def _on_closed(self, event: events.Closed) -> Instructions:
        lease = self._require(event.key, Phase.CLOSING, "Closed")
        lease.enter(Phase.ENDED, "closed")
        ending = lease.ending
        if ending is None:
            raise lease.illegal("closed without a reason")
        device_id = lease.terms.device_id
        del self._by_device[device_id]
        self._remember(event.key, ending)
        out: Instructions = []
        if ending.tell:
            out += self._tell(Release(event.key, ending.reason, ending.detail))
        following = self._next.pop(device_id, None)
        if following is not None:
            out += self._start(following)
        return out

    def _end(self, lease: Lease, ending: Ending) -> Instructions:
        """Decide that a lease ends. An end that discards replaces one that does not."""
        if lease.phase is Phase.CLOSING:
            return []
        if lease.ending is None or (ending.discard and not lease.ending.discard):
            lease.ending = ending
            lease.story.append(f"ending: {ending.reason} {ending.detail}")
        key = lease.terms.key
        if lease.phase is Phase.PREPARING:
            return [Abandon(key)]
        if lease.phase is Phase.RUNNING:
            return [Interrupt(key)]
        if lease.phase is Phase.RECOVERED and not lease.ending.discard:
            return []  # decided when the coordinator says whether the lease is still ours
        return self._settle(lease, ending.detail)

    def _settle(self, lease: Lease, cause: str) -> Instructions:
        """The executor is free for this lease: run on, wait, or close."""
        ending = lease.ending
        if ending is not None and (ending.discard or lease.unanswered == 0):
            return self._close(lease, cause)
        if ending is None and lease.all_computed and lease.unanswered == 0:
            lease.ending = Ending(ReleaseReason.FINISHED, "all steps done", False, True)
            return self._close(lease, cause)
        may_run = ending is None and (lease.replaying or lease.window_open)
        if may_run and not lease.all_computed:
            index, first_step, count, keep_state = lease.planned()
            lease.enter(Phase.RUNNING, cause)
            return [Run(lease.terms.key, index, first_step, count, keep_state)]
        lease.enter(Phase.WAITING, cause)
        return []

    def _close(self, lease: Lease, cause: str) -> Instructions:
        lease.enter(Phase.CLOSING, cause)
        return [Close(lease.terms.key)]

    def _tell(self, release: Release) -> Instructions:
        """Send a release now, or after the next welcome."""
        if self._connected:
            return [release]
        if len(self._unsent) >= MAX_UNSENT_RELEASES:
            raise LimitExceeded(f"{MAX_UNSENT_RELEASES} releases wait for the coordinator")
        self._unsent[release.key] = release
        return []

    # ------------------------------------------------------------ look-up

    def _given_up(self, lease: Lease) -> bool:
        return lease.phase is Phase.CLOSING or (lease.ending is not None and lease.ending.discard)

    def _find(self, key: LeaseKey) -> Lease | None:
        return next((x for x in self._by_device.values() if x.terms.key == key), None)

    def _require(self, key: LeaseKey, phase: Phase, cause: str) -> Lease:
        lease = self._find(key)
        if lease is None:
            raise self._unexpected(key, lease, cause)
        lease.expect(phase, cause)
        return lease

    def _unexpected(self, key: LeaseKey, lease: Lease | None, cause: str) -> IllegalTransition:
        if lease is not None:
            return lease.illegal(f"{cause} in phase {lease.phase}")
        return IllegalTransition(
            f"{cause} for lease {key.lease_id} fence {key.fence}, unknown here"
        )

    def _remember(self, key: LeaseKey, ending: Ending) -> None:
        self._ended[key] = ending
        while len(self._ended) > MAX_ENDED_LEASES:
            self._ended.popitem(last=False)
