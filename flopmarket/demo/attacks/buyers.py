"""Buyers who mean harm: programs made to break workers, and orders without money."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np

from flopmarket.client.orders import Order
from flopmarket.client.session import Session
from flopmarket.demo.attacks.league import End, League
from flopmarket.demo.attacks.stage import BUYER, HONEST, Stage
from flopmarket.engine import nn
from flopmarket.errors import FlopmarketError, Unavailable
from flopmarket.jobs.bundle import Array
from flopmarket.jobs.job import InferenceJob
from flopmarket.trust.audit_policy import Level
from flopmarket.v1 import job_pb2, job_pb2_grpc

MUTATIONS = 300
PAUSE_SECONDS = 0.1
MAX_PAUSES = 300
ROWS = 96


def play(stage: Stage, league: League) -> None:
    """All of them."""
    stage.say("\n[bold]Hostile buyers[/]")
    _broken_programs(stage, league)
    _odd_numbers(stage, league)
    _without_money(stage, league)


def _broken_programs(stage: Stage, league: League) -> None:
    """A real program with random bytes changed: shapes, operations, links, lengths."""
    program = stage.job.prepare().program.to_bytes()
    random = np.random.default_rng(7)
    answers: Counter[str] = Counter()
    down = 0
    with stage.session(BUYER) as session:
        for _ in range(MUTATIONS):
            broken = bytearray(program)
            for at in random.integers(0, len(broken), 1 + int(random.integers(4))):
                broken[at] = int(random.integers(256))
            request = job_pb2.QuoteJobRequest(
                program=bytes(broken), steps=4, segment_steps=2, verification=Level.DETER
            )
            code, lost = _asked(session, request)
            answers[code] += 1
            down += lost
    legal = answers.pop("accepted", 0)
    most = ", ".join(f"{code} {count}" for code, count in answers.most_common(3))
    league.add(
        "fuzzer", (20,), f"{MUTATIONS} programs with changed bytes", End.REFUSED,
        f"{most}, ...; {legal} were legal programs", down == 0 and answers.total() > 0,
    )  # fmt: skip


def _asked(session: Session, request: job_pb2.QuoteJobRequest) -> tuple[str, bool]:
    """The code of the answer to the program, and whether the coordinator failed to give one. Who
    asks too often is told to wait, which says nothing about a program: it is asked again."""
    code = "RATE_LIMITED"
    for _ in range(MAX_PAUSES):
        try:
            session.call(job_pb2_grpc.JobServiceStub(session.channel).QuoteJob, request)
        except Unavailable as error:
            return error.code, True
        except FlopmarketError as error:
            code = error.code
        else:
            return "accepted", False
        if code != "RATE_LIMITED":
            break
        time.sleep(PAUSE_SECONDS)
    return code, code in ("INTERNAL", "RATE_LIMITED")


def odd_numbers(rows: int) -> Array:
    """float32 [rows, 64] of NaNs with payloads, infinities, zeros of both signs, subnormals, and
    numbers whose products overflow or round twice.
    """
    words = np.array(
        [
            0x7FC00000, 0xFFC12345, 0x7F800001, 0x7F800000, 0xFF800000, 0x80000000, 0x00000000,
            0x00000001, 0x807FFFFF, 0x7F7FFFFF, 0xFF7FFFFF, 0x3F800001, 0x33800001, 0x00800000,
        ],
        np.uint32,
    )  # fmt: skip
    picked = np.random.default_rng(3).integers(0, len(words), (rows, 64))
    return words[picked].view(np.float32)


def _odd_numbers(stage: Stage, league: League) -> None:
    """Values on which devices differ, to have an honest worker convicted of a difference."""
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8), nn.Softmax(dim=-1))
    job = InferenceJob(
        model=model,
        inputs=odd_numbers(ROWS),
        batch=16,
        weights=model.init(1),
        segment_steps=2,
        title="numbers on which devices differ",
    )
    order = Order(wait=True, owners=(stage.account(HONEST),))
    with stage.client(BUYER) as buyer:
        quote = buyer.quote(job, order)
        result = buyer.run(job, max_price=quote.ceiling, order=order)
    rejected = [segment for segment in result.job.segments if segment.state == "rejected"]
    same = result.outputs_root == job.run_local().outputs_root
    league.add(
        "framer", (18, 20), "NaN payloads, subnormals, overflow, double rounding", End.NO_EFFECT,
        f"{result.outputs_root.hex()[:16]}, {'the bits' if same else 'NOT the bits'} of a local "
        f"run; {len(rejected)} rejections of the honest worker",
        same and not rejected,
    )  # fmt: skip


def _without_money(stage: Stage, league: League) -> None:
    code = "accepted"
    with stage.client("pauper") as pauper:
        pauper.register("pauper")
        try:
            pauper.submit(stage.job, max_price="1.00", order=Order(wait=True))
        except FlopmarketError as error:
            code = error.code
    league.add(
        "pauper", (), "a job without the money for it", End.REFUSED, code,
        code == "BALANCE_TOO_SMALL",
    )  # fmt: skip
