"""Two parties, one of whom computes something else, and the dispute between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import flopmarket as fm
from flopmarket import nn
from flopmarket.engine import dtypes, graph
from flopmarket.engine.graph import Op
from flopmarket.engine.loop import Group, body_of, placeholder, result
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.jobs import bundle
from flopmarket.jobs.dispute_problem import JobProblem
from flopmarket.jobs.job import InferenceJob, TrainingJob
from flopmarket.jobs.operations import Operation
from flopmarket.jobs.prepared import PreparedJob, run_local
from flopmarket.jobs.spec import DataOrder, JobKind, job_id
from flopmarket.jobs.spec import OrderKind as Rows
from flopmarket.jobs.tracing import Evaluate, SegmentData, SegmentTrace, by_reference
from flopmarket.trust.dispute import Ask
from flopmarket.trust.dispute_documents import Claim, DisputeOpening, Level, Party, Payload
from flopmarket.trust.encoding import encode
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.keys import KeyPair
from flopmarket.trust.transcript import Recorder, Transcript, payload_digest, seal_move

Array = np.ndarray[Any, Any]
COORDINATOR = KeyPair.from_seed(bytes([9]) * 32)
KEYS = {
    Party.PRODUCER: KeyPair.from_seed(bytes([1]) * 32),
    Party.AUDITOR: KeyPair.from_seed(bytes([2]) * 32),
}
ANSWER_US = 120_000_000


@dataclass
class Case:
    """A job's segment and what each party computes it with."""

    job: PreparedJob
    first_step: int
    steps: int
    problem: JobProblem
    opening: DisputeOpening
    traces: dict[Party, SegmentTrace]
    spec: bytes

    def recorder(self) -> Recorder:
        return Recorder(self.opening, self.problem, self.spec, self.job.program.to_bytes())


def case_of(
    job: PreparedJob,
    producer: Evaluate = by_reference,
    auditor: Evaluate = by_reference,
    *,
    first_step: int = 0,
    steps: int = 3,
    tensors: dict[Party, SegmentData] | None = None,
) -> Case:
    """A dispute about ``steps`` steps, claims made by each party's own replay."""
    spec = job.spec(buyer="b", max_price_nano=1, deadline_us=2, nonce=bytes(16))
    honest = SegmentData(job.frozen, job.data, job.state)
    if first_step:
        before = run_local(job, "reference", steps=first_step)
        honest = replace(honest, state=before.state)
    root = bundle.root(honest.state)
    opening = _opening(job_id(spec), root, first_step, steps)
    problem = JobProblem(opening, spec, job.program)
    traces = {
        Party.PRODUCER: SegmentTrace(problem, honest, producer),
        Party.AUDITOR: SegmentTrace(problem, honest, auditor),
    }
    for party, given in (tensors or {}).items():
        evaluate = producer if party is Party.PRODUCER else auditor
        traces[party] = SegmentTrace(problem, given, evaluate)
    claims = {
        p: trace.claim(KEYS[p].public.raw, bytes([n]) * 32)
        for n, (p, trace) in enumerate(traces.items())
    }
    opening = replace(opening, producer=claims[Party.PRODUCER], auditor=claims[Party.AUDITOR])
    problem.question = opening
    return Case(job, first_step, steps, problem, opening, traces, encode(spec))


def _opening(job: bytes, root: bytes, first_step: int, steps: int) -> DisputeOpening:
    empty = Claim(KEYS[Party.PRODUCER].public.raw, bytes(32), bytes(32), bytes(32))
    other = replace(empty, key=KEYS[Party.AUDITOR].public.raw)
    return DisputeOpening(
        COORDINATOR.public.key_id, job, 0, first_step, steps, root, empty, other, 1000, ANSWER_US
    )


def sign_move(
    opening: DisputeOpening, level: Level, payload: Payload, key: KeyPair, nonce: bytes, at_us: int
) -> tuple[Envelope, bytes]:
    """A party's signed answer: the envelope, and the bytes of the list that travel beside it."""
    data = encode(payload)
    return seal_move(opening, level, payload_digest(data), key, nonce, at_us), data


def send(recorder: Recorder, ask: Ask, payload: Payload, at_us: int) -> None:
    nonce = bytes([len(ask.party), ask.deadline_us % 251]) * 8
    envelope, data = sign_move(
        recorder.dispute.opening, ask.level, payload, KEYS[ask.party], nonce, at_us
    )
    recorder.receive(ask.party, envelope, data, at_us)


def play(case: Case) -> Transcript:
    """Both parties answer everything that is asked."""
    recorder = case.recorder()
    at_us = case.opening.opened_at_us
    while recorder.dispute.verdict is None:
        asks = [i for i in recorder.instructions if isinstance(i, Ask)]
        assert len(asks) == 2
        for ask in asks:
            if recorder.dispute.verdict is None:
                at_us += 1_000_000
                send(recorder, ask, case.traces[ask.party].answer(ask), at_us)
    return recorder.transcript()


# ---------------------------------------------------------------- faults


@dataclass
class Flip:
    """Computes right but for one bit of one element of one operation in one step."""

    step: int
    operation: int
    element: int = 0
    bit: int = 0

    def __call__(self, step: int, at: int, op: Operation, sources: Sequence[Array]) -> Array:
        value = by_reference(step, at, op, sources)
        if (step, at) != (self.step, self.operation):
            return value
        words = dtypes.canonical(value).copy().reshape(-1)
        bits = words.view(dtypes.unsigned_of(op.dtype).numpy)
        bits[self.element] ^= bits.dtype.type(1 << self.bit)
        return words.reshape(op.shape)


def half_products(step: int, at: int, op: Operation, sources: Sequence[Array]) -> Array:
    """Multiplies with operands rounded to float16: a cheaper precision."""
    if op.node is not None and op.node.op is Op.DOT:
        sources = [s.astype(np.float16).astype(np.float32) for s in sources[:2]]
        return by_reference(step, at, op, sources)
    return by_reference(step, at, op, sources)


def other_order(step: int, at: int, op: Operation, sources: Sequence[Array]) -> Array:
    """Adds the terms of a product from the last to the first."""
    if op.node is not None and op.node.op is Op.DOT:
        sources = [sources[0][:, :, ::-1], sources[1][:, ::-1, :]]
    return by_reference(step, at, op, sources)


# ---------------------------------------------------------------- jobs


def mlp_job(steps: int = 6) -> PreparedJob:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((40, 70)).astype(np.float32)
    y = rng.integers(0, 5, 40).astype(np.int32)
    model = nn.Sequential(nn.Linear(70, 80), nn.ReLU(), nn.Dropout(0.2), nn.Linear(80, 5))
    return TrainingJob(
        model, nn.CrossEntropyLoss(), fm.optim.Adam(lr=1e-2), (x, y), batch=16, steps=steps, seed=3
    ).prepare()


def conv_job(steps: int = 4) -> PreparedJob:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((12, 2, 8, 8)).astype(np.float32)
    y = rng.integers(0, 3, 12).astype(np.int32)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3)
    )
    return TrainingJob(
        model, nn.CrossEntropyLoss(), fm.optim.SGD(lr=0.1), (x, y), batch=4, steps=steps, seed=5
    ).prepare()


def inference_job() -> PreparedJob:
    rng = np.random.default_rng(4)
    model = nn.Sequential(nn.Embedding(50, 24), nn.Flatten(), nn.Linear(72, 9))
    model.init(0)
    ids = rng.integers(0, 50, (20, 3)).astype(np.int32)
    weights = dict(model.init(0))
    return InferenceJob(model, ids, batch=4, weights=weights).prepare()


def loop_job() -> PreparedJob:
    """A recurrence inside one step: carry h, items x_t, a shared matrix, stacked hidden values."""
    f32 = dtypes.float32
    turns, width, batch = 5, 6, 4
    carry = placeholder("carry", 0, f32, (batch, width))
    item = placeholder("item", 0, f32, (batch, width))
    shared = placeholder("shared", 0, f32, (width, width))
    product = graph.dot(
        graph.reshape(carry, (1, batch, width)), graph.reshape(shared, (1, width, width))
    )
    following = graph.max_(
        graph.add(graph.reshape(product, (batch, width)), item),
        graph.filled(-0.5, f32, (batch, width)),
    )
    body = body_of([following, following], 1, 1, 1)
    x = graph.input_("input", "x", f32, (batch, turns, width))
    w = graph.input_("frozen", "w", f32, (width, width))
    h = graph.input_("state", "h", f32, (batch, width))
    group = Group((h, graph.permute(x, (1, 0, 2)), w), turns, True, body)
    program = Program.build(
        frozen=[TensorSpec("w", f32, (width, width))],
        state=[TensorSpec("h", f32, (batch, width))],
        inputs=[TensorSpec("x", f32, (batch, turns, width))],
        next_state=[result(group, 0)],
        outputs=[("all", result(group, 1))],
    )
    rng = np.random.default_rng(6)
    return PreparedJob(
        kind=JobKind.TRAINING,
        program=program,
        frozen={"w": rng.standard_normal((width, width)).astype(np.float32)},
        state={"h": np.zeros((batch, width), dtype=np.float32)},
        data={"x": rng.standard_normal((10, turns, width)).astype(np.float32)},
        order=DataOrder(Rows.SHUFFLED, 10, batch),
        seed=1,
        steps=6,
        segment_steps=3,
        title="recurrence",
    )


JOBS = {"mlp": mlp_job, "conv": conv_job, "inference": inference_job, "loop": loop_job}
