"""A watch that survives its connection: events of a job from a sequence number on, each once.

The loop is apart from gRPC: it is given a function that opens the stream after a sequence number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flopmarket.client.results import JobEvent, JobInfo
from flopmarket.client.session import Ports
from flopmarket.errors import FlopmarketError, Unauthenticated, Unavailable
from flopmarket.limits import CLIENT_WATCH_GIVE_UP_SECONDS

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
PROGRESS_KIND = "progress"
END_KINDS = frozenset({"succeeded", "failed", "cancelled"})


def watch_events(
    open_stream: Callable[[int], Iterator[JobEvent]],
    current: Callable[[], JobInfo],
    ports: Ports,
    after_sequence: int = 0,
    until_us: int | None = None,
) -> Iterator[JobEvent]:
    """Events after ``after_sequence`` until the job has ended.

    ``open_stream(after)`` is one connection; ``current()`` asks how the job stands when a stream
    ended without saying so. Progress is not part of the story: it is passed on as it comes and may
    be lost with a connection; its sequence number is that of the last event. A dropped connection
    is reopened with growing pauses; after ``CLIENT_WATCH_GIVE_UP_SECONDS`` without an answer the
    last error is raised. At ``until_us`` it ends with :class:`WaitedLongEnough`; a stream must end
    by itself then.
    """
    last = after_sequence
    pause_seconds = FIRST_PAUSE_SECONDS
    silent_since_us = ports.now_us()
    refused = ended = False
    while True:
        try:
            for event in open_stream(last):
                pause_seconds, silent_since_us, refused = FIRST_PAUSE_SECONDS, ports.now_us(), False
                if event.kind != PROGRESS_KIND:
                    if event.sequence <= last:
                        continue
                    last = event.sequence
                    ended = ended or event.kind in END_KINDS
                yield event
                silent_since_us = ports.now_us()  # the reader's own time is not silence
            if ended or current().state.has_ended:
                return
            silent_since_us = ports.now_us()
        except FlopmarketError as error:
            if ended:
                return
            _check_time(ports, until_us)
            silent_seconds = (ports.now_us() - silent_since_us) / 1e6
            if not _worth_another(error, refused) or silent_seconds > CLIENT_WATCH_GIVE_UP_SECONDS:
                raise
            refused = isinstance(error, Unauthenticated)
        _check_time(ports, until_us)
        ports.sleep(pause_seconds)
        pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)


class WaitedLongEnough(Unavailable):
    """The job had not ended when the caller's time was up; it goes on."""

    default_code = "WAIT_TIMEOUT"


def _check_time(ports: Ports, until_us: int | None) -> None:
    if until_us is not None and ports.now_us() >= until_us:
        raise WaitedLongEnough("the job has not ended yet", hint="it goes on; wait again")


def _worth_another(error: FlopmarketError, refused_before: bool) -> bool:
    """A lost connection is; so is one forgotten session, since the next call opens another."""
    if isinstance(error, Unauthenticated):
        return not refused_before and error.code != "KEY_NEEDED"
    return isinstance(error, Unavailable) or error.retryable
