"""The client's view of a job that is ready to be sold: what it reads of one, and nothing more.

``flopmarket.jobs`` makes them; this protocol keeps the client from importing an engine to talk to a
market.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from flopmarket.client.results import Array
from flopmarket.errors import InvalidInput
from flopmarket.jobs.spec import JobSpec


@runtime_checkable
class PreparedJob(Protocol):
    """Program, tensors and numbers of one job (``flopmarket.jobs.prepared.PreparedJob``)."""

    @property
    def state(self) -> Mapping[str, Array]:
        """Initial state by name; empty for a stateless program."""

    @property
    def steps(self) -> int:
        """Steps of the whole job."""

    @property
    def segment_steps(self) -> int:
        """Steps of one segment."""

    @property
    def title(self) -> str:
        """A name for people; decides nothing."""

    def spec(self, *, buyer: str, max_price_nano: int, deadline_us: int, nonce: bytes) -> JobSpec:
        """The specification to sign."""

    def artifacts(self) -> Mapping[str, bytes]:
        """Files by name: program, data, and frozen and state unless they are empty."""


def prepare(job: object) -> PreparedJob:
    """``job`` itself when it is prepared, else what its ``prepare()`` returns.

    Raises InvalidInput NOT_A_JOB for anything else.
    """
    if isinstance(job, PreparedJob):
        return job
    method = getattr(job, "prepare", None)
    prepared = method() if callable(method) else None
    if isinstance(prepared, PreparedJob):
        return prepared
    raise InvalidInput(
        f"a {type(job).__name__} is not a job",
        code="NOT_A_JOB",
        hint="pass a TrainingJob or an InferenceJob",
    )
