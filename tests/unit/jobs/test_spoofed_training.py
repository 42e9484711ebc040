"""Training that was not done, shown as if it had been: what a threshold believes and bits do not.

A *naive* verifier runs the step that the worker shows it (its rows, its rate) and accepts an end
within a threshold of its own. Both known attacks on such proofs of learning pass it, and neither
passes the comparison of roots under a specification that the buyer signed.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import flopmarket as fm
from flopmarket import nn
from flopmarket.errors import InvalidInput
from flopmarket.jobs import bundle
from flopmarket.jobs.job import TrainingJob
from flopmarket.jobs.order import rows_of_step
from flopmarket.jobs.prepared import PreparedJob, run_local
from flopmarket.jobs.runner import check_job
from flopmarket.jobs.spec import job_id
from flopmarket.jobs.tracing import SegmentData
from flopmarket.trust.dispute_documents import Outcome, Party, Reason
from tests.unit.jobs.disputes import Array, case_of, inference_job, mlp_job, play

RATE = 0.1
WIDTH = 6
WEIGHT = "weight"


def regression(
    x: Array, y: Array, *, batch: int, weight: Array | None = None, rate: float = RATE
) -> PreparedJob:
    """Least squares by steps of ``rate``."""
    model = nn.Linear(WIDTH, 1, bias=False)
    return TrainingJob(
        model,
        nn.MSELoss(),
        fm.optim.SGD(lr=rate),
        (x, y),
        batch=batch,
        steps=40,
        segment_steps=1,
        seed=4,
        initial=None if weight is None else {WEIGHT: weight},
    ).prepare()


@cache
def honest() -> PreparedJob:
    rng = np.random.default_rng(11)
    x = rng.standard_normal((32, WIDTH)).astype(np.float32)
    y = (x @ rng.standard_normal((WIDTH, 1)) + 0.1).astype(np.float32)
    return regression(x, y, batch=4)


def weight_of(state: dict[str, Array]) -> Array:
    ((name, weight),) = state.items()
    assert name.endswith(WEIGHT)
    return weight


def believes(claimed: Array, mine: Array, threshold: float) -> bool:
    """The naive verifier."""
    return float(np.linalg.norm(claimed - mine)) <= threshold


def point_that_leads(before: Array, after: Array) -> tuple[Array, Array]:
    """One made-up row whose gradient step leads from one weight to any other.

    The gradient of ``(w.x - y)^2`` is ``2 (w.x - y) x``: x is the way, y its length.
    """
    way = (before - after).astype(np.float64)
    x = way / np.linalg.norm(way)
    y = (before.astype(np.float64) * x).sum() - np.linalg.norm(way) / (2 * RATE)
    return x.astype(np.float32).reshape(1, WIDTH), np.array([[y]], np.float32)


def test_made_up_data_points_pass_a_threshold_and_no_comparison_of_bits() -> None:
    """Any weights, say of a stolen model, are reached in one step on one row made for it."""
    job = honest()
    before, stolen = weight_of(job.state), np.full((1, WIDTH), 0.75, np.float32)
    x, y = point_that_leads(before, stolen)
    spoof = regression(x, y, batch=1, weight=before)
    shown = weight_of(run_local(spoof, "reference", steps=1).state)
    assert believes(shown, stolen, 1e-5), "the row does what it was made for"
    right = run_local(job, "reference", steps=1)
    assert not believes(weight_of(right.state), stolen, 0.1)

    spec = job.spec(buyer="b", max_price_nano=1, deadline_us=2, nonce=bytes(16))
    with pytest.raises(InvalidInput) as refused:
        check_job(spec, job.program, job.frozen, spoof.data)
    assert refused.value.code == "JOB_DATA", "rows that the buyer did not sign do not run"
    claimed = bundle.root(dict.fromkeys(right.state, stolen))
    assert claimed != right.segments[0].state_root

    # The same row in place of the one that the seed chooses: found where it enters.
    row = int(rows_of_step(job.order, job.seed, 0)[0])
    data = {name: value.copy() for name, value in job.data.items()}
    (inputs,) = (name for name in data if name != "y")
    data[inputs][row], data["y"][row] = x[0], y[0]
    wrong = SegmentData(job.frozen, data, job.state)
    case = case_of(job, tensors={Party.PRODUCER: wrong})
    verdict = play(case).verdict
    assert (verdict.outcome, verdict.reason) == (Outcome.PRODUCER_WRONG, Reason.INPUT_FORGED)
    node = case.problem.plan.operations[verdict.operation].node
    assert node is not None and node.arg[0] == "input" and verdict.step == 0


def test_steps_too_small_to_see_pass_a_threshold_and_no_comparison_of_bits() -> None:
    """A straight line from the start to stolen weights, cut so finely that every piece is smaller
    than the threshold, shown with a rate so small that recomputing moves nothing.
    """
    job = honest()
    start, stolen = weight_of(job.state), np.full((1, WIDTH), 0.75, np.float32)
    moved = weight_of(run_local(job, "reference", steps=1).state) - start
    threshold = 0.1 * float(np.linalg.norm(moved))
    pieces = int(np.ceil(2 * np.linalg.norm(stolen - start) / threshold))
    line = [
        (start + (stolen - start) * np.float32(at / pieces)).astype(np.float32)
        for at in range(pieces + 1)
    ]
    largest = sorted(range(pieces), key=lambda at: -float(np.linalg.norm(line[at + 1] - line[at])))
    rng = np.random.default_rng(3)
    looked_at = {*largest[:3], *rng.integers(0, pieces, 5).tolist()}
    x, y = (job.data[name] for name in sorted(job.data, key=lambda name: name == "y"))
    exact = 0
    for at in looked_at:
        tiny = regression(x, y, batch=4, weight=line[at], rate=1e-7)
        mine = run_local(tiny, "reference", steps=1)
        assert believes(line[at + 1], weight_of(mine.state), threshold)
        exact += mine.state_root == bundle.root(dict.fromkeys(mine.state, line[at + 1]))
        assert tiny.program.digest != job.program.digest, "the rate is part of what was signed"
    assert exact == 0
    # Under the signed program there is not even one piece that recomputing agrees with.
    before = dict.fromkeys(job.state, line[1])
    again = run_local(job, "reference", state=before, first_step=1, steps=1)
    assert again.state_root != bundle.root(dict.fromkeys(job.state, line[2]))


def test_one_layer_of_another_model_is_found_where_it_enters() -> None:
    """Weights of one layer rounded to 8 bits: cheaper, close, and other bits at once."""
    job = inference_job()
    name = max(job.frozen, key=lambda key: job.frozen[key].size)
    scale = np.abs(job.frozen[name]).max() / np.float32(127)
    cheap = (np.round(job.frozen[name] / scale) * scale).astype(np.float32)
    assert np.abs(cheap - job.frozen[name]).max() <= scale
    swapped = dict(job.frozen) | {name: cheap}
    case = case_of(job, tensors={Party.PRODUCER: SegmentData(swapped, job.data, job.state)})
    assert case.opening.producer.outputs_root != case.opening.auditor.outputs_root
    verdict = play(case).verdict
    assert (verdict.outcome, verdict.step) == (Outcome.PRODUCER_WRONG, 0)
    node = case.problem.plan.operations[verdict.operation].node
    assert node is not None and node.arg[:2] == ("frozen", name)
    spec = job.spec(buyer="b", max_price_nano=1, deadline_us=2, nonce=bytes(16))
    with pytest.raises(InvalidInput) as refused:
        check_job(spec, job.program, swapped, job.data)
    assert refused.value.code == "JOB_FROZEN"


def test_a_smaller_model_is_another_job() -> None:
    small, large = honest(), mlp_job()
    spec = large.spec(buyer="b", max_price_nano=1, deadline_us=2, nonce=bytes(16))
    with pytest.raises(InvalidInput) as refused:
        check_job(spec, small.program, large.frozen, large.data)
    assert refused.value.code == "JOB_PROGRAM"
    assert job_id(replace(spec, program_digest=small.program.digest)) != job_id(spec)
