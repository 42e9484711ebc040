"""The client's view of a job that is ready to be sold: what it reads of one, and nothing more.

``flopmarket.jobs`` makes them; this protocol keeps the client from importing an engine to talk to a
market.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from flopmarket.client.results import Array
from flopmarket.errors import InvalidInput
from flopmarket.jobs.form import JobForm
from flopmarket.jobs.spec import NO_CLASS, JobSpec, Mode
from flopmarket.market.order import MARKET_ORDER, OrderTerms
from flopmarket.trust.audit_policy import Level


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

    def spec(
        self,
        *,
        buyer: str,
        max_price_nano: int,
        deadline_us: int,
        nonce: bytes,
        order: OrderTerms = MARKET_ORDER,
        verification: Level = Level.DETER,
        mode: Mode = Mode.EXACT,
        class_digest: bytes = NO_CLASS,
    ) -> JobSpec:
        """The specification to sign."""

    def artifacts(self) -> Mapping[str, bytes]:
        """Files by name: program, data, and frozen and state unless they are empty."""


def prepare(job: object, inputs: object = None, batch: int | None = None) -> PreparedJob:
    """``job`` itself when it is prepared, else what its ``prepare()`` returns.

    With ``inputs`` it is an ``fm.Model`` that is applied to their rows, ``batch`` rows a step.
    Raises InvalidInput NOT_A_JOB for anything else, and what preparing raises.
    """
    if inputs is not None:
        return _prepare_model(job, inputs, batch)
    if isinstance(job, PreparedJob):
        return job
    method = getattr(job, "prepare", None)
    prepared = method() if callable(method) else None
    if isinstance(prepared, PreparedJob):
        return prepared
    raise InvalidInput(
        f"a {type(job).__name__} is not a job",
        code="NOT_A_JOB",
        hint="pass a TrainingJob, an InferenceJob, or an fm.Model with inputs=",
    )


def _prepare_model(model: object, inputs: object, batch: int | None) -> PreparedJob:
    from flopmarket.engine.formats.onnx import Model  # whoever has inputs has imported it
    from flopmarket.jobs.models import model_job

    if not isinstance(model, Model):
        raise InvalidInput(
            f"inputs are for an fm.Model, not for a {type(model).__name__}", code="NOT_A_MODEL"
        )
    prepared = model_job(model, inputs, batch=batch).prepare()
    assert isinstance(prepared, PreparedJob)
    return prepared


def form_of(job: PreparedJob | JobForm) -> JobForm:
    """What a quote needs of a job."""
    if isinstance(job, JobForm):
        return job
    files = job.artifacts()
    return JobForm(
        program=files["program"],
        steps=job.steps,
        segment_steps=job.segment_steps,
        input_bytes=sum(len(data) for name, data in files.items() if name != "program"),
    )
