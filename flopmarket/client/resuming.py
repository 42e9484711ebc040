"""A stream that survives its connection: it is opened again behind the last message it gave.

The loop is apart from gRPC: it is given a function that opens the stream behind a resume token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from flopmarket.client.session import Ports
from flopmarket.errors import FlopmarketError, Unavailable
from flopmarket.limits import CLIENT_WATCH_GIVE_UP_SECONDS

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0


class Resumable(Protocol):
    """A message that says where to go on."""

    @property
    def resume_token(self) -> str: ...


Message = TypeVar("Message", bound=Resumable)


def resumed(
    open_stream: Callable[[str], Iterator[Message]], ports: Ports, resume_token: str
) -> Iterator[Message]:
    """Messages without end, each once.

    After a lost connection, or when the coordinator let us go for being slow, the stream is opened
    again with growing pauses; after ``CLIENT_WATCH_GIVE_UP_SECONDS`` without a message the last
    error is raised.
    """
    pause_seconds = FIRST_PAUSE_SECONDS
    silent_since_us = ports.now_us()
    while True:
        try:
            for message in open_stream(resume_token):
                pause_seconds, resume_token = FIRST_PAUSE_SECONDS, message.resume_token
                yield message
                silent_since_us = ports.now_us()
        except FlopmarketError as error:
            silent_seconds = (ports.now_us() - silent_since_us) / 1e6
            worth_another = isinstance(error, Unavailable) or error.retryable
            if not worth_another or silent_seconds > CLIENT_WATCH_GIVE_UP_SECONDS:
                raise
        ports.sleep(pause_seconds)
        pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
