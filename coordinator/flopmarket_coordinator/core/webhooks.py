"""What webhooks are told, and when a failed delivery is tried again."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from flopmarket.errors import InvalidInput
from flopmarket.limits import (
    WEBHOOK_FIRST_PAUSE_SECONDS,
    WEBHOOK_LONGEST_PAUSE_SECONDS,
)
from flopmarket_coordinator.core.events import EventKind


class WebhookEvent(StrEnum):
    """Type of a message, as its body names it."""

    JOB_QUEUED = "job.queued"
    JOB_SUCCEEDED = "job.succeeded"
    JOB_FAILED = "job.failed"
    JOB_CANCELLED = "job.cancelled"
    JOB_CORRECTED = "job.corrected"
    TEST = "webhook.test"


SUBSCRIBABLE = tuple(event for event in WebhookEvent if event is not WebhookEvent.TEST)

EVENT_OF: Mapping[EventKind, WebhookEvent] = MappingProxyType(
    {
        EventKind.QUEUED: WebhookEvent.JOB_QUEUED,
        EventKind.SUCCEEDED: WebhookEvent.JOB_SUCCEEDED,
        EventKind.FAILED: WebhookEvent.JOB_FAILED,
        EventKind.CANCELLED: WebhookEvent.JOB_CANCELLED,
        EventKind.CORRECTED: WebhookEvent.JOB_CORRECTED,
    }
)
"""Lines of a job's story that webhooks are told; the others are for watchers."""


class DeliveryState(StrEnum):
    """Where a message to a webhook is."""

    PENDING = "pending"
    DELIVERED = "delivered"
    GIVEN_UP = "given-up"


def events_of(names: tuple[str, ...]) -> tuple[WebhookEvent, ...]:
    """The events a webhook asks for, each once; all of them for none.

    Raises :class:`InvalidInput` ``WEBHOOK_EVENT_UNKNOWN``.
    """
    wanted = set(names)
    unknown = sorted(wanted - set(SUBSCRIBABLE))
    if unknown:
        raise InvalidInput(
            f"there is no event {unknown[0][:80]!r}",
            code="WEBHOOK_EVENT_UNKNOWN",
            hint=f"events: {', '.join(SUBSCRIBABLE)}",
        )
    return tuple(event for event in SUBSCRIBABLE if event in wanted or not wanted)


def retry_pause_us(attempts: int) -> int:
    """Pause after that many failed attempts of one message: doubled each time, up to a longest."""
    doubled = WEBHOOK_FIRST_PAUSE_SECONDS << min(attempts - 1, 32)
    return min(doubled, WEBHOOK_LONGEST_PAUSE_SECONDS) * 1_000_000
