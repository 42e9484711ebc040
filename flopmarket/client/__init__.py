"""The SDK: one coordinator over gRPC, behind typed values.

``Client`` is the facade; the command line is built on it. Read in this order: ``client``,
``buying`` (a purchase step by step), ``checks`` (what is verified), ``session`` and ``channel``
(how calls are made), ``results`` (what comes back).
"""

from flopmarket.client.buying import JobHandle
from flopmarket.client.client import Client
from flopmarket.client.failures import AnswerRefused, JobEnded
from flopmarket.client.money import Amount, Money
from flopmarket.client.results import JobEvent, JobInfo, JobResult, JobState, Quote
from flopmarket.client.webhooks import WebhookMessage, verify_webhook

__all__ = [
    "Amount",
    "AnswerRefused",
    "Client",
    "JobEnded",
    "JobEvent",
    "JobHandle",
    "JobInfo",
    "JobResult",
    "JobState",
    "Money",
    "Quote",
    "WebhookMessage",
    "verify_webhook",
]
