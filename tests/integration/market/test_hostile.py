"""Hostile requests against the real server: each has its code, costs nothing, and stops nothing.

What a single message may hold is tested beside the servicers (tests/integration/coordinator); here
are whole purchases, with signatures, uploads and money.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping

import pytest

from flopmarket.client.artifacts import Artifacts
from flopmarket.client.channel import open_channel
from flopmarket.client.client import SYSTEM_PORTS
from flopmarket.client.session import Identity, Session
from flopmarket.engine import graph
from flopmarket.engine.codec import Writer
from flopmarket.engine.dtypes import float32
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.errors import FlopmarketError
from flopmarket.jobs.spec import JobSpec
from flopmarket.trust.envelope import seal
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.v1 import common_pb2, job_pb2, job_pb2_grpc, ledger_pb2, ledger_pb2_grpc
from tests.engine.test_program import HOSTILE, ONE, SCALAR, raw_program
from tests.integration.market.processes import Market
from tests.one_digest import ONE_DIGEST, one_digest_job

HOUR_US = 3_600_000_000
JOB = one_digest_job()


class Attacker:
    """Somebody with an account, who writes requests by hand."""

    def __init__(self, market: Market, key: KeyPair) -> None:
        self.key = key
        self._channel = open_channel(market.address)
        identity = Identity(key, key.key_id, KeyRole.OWNER)
        self._session = Session(self._channel, market.address, SYSTEM_PORTS, identity, "")
        self._ledger = ledger_pb2_grpc.LedgerServiceStub(self._channel)
        self._jobs = job_pb2_grpc.JobServiceStub(self._channel)
        self._artifacts = Artifacts(self._session)
        self.audience = self._session.coordinator().key_id

    def close(self) -> None:
        self._channel.close()

    def spec(self, **changes: object) -> JobSpec:
        """A specification that would be accepted, but for the changes."""
        good = JOB.spec(
            buyer=self.key.key_id,
            max_price_nano=1_000_000,
            deadline_us=time.time_ns() // 1000 + HOUR_US,
            nonce=os.urandom(16),
        )
        return dataclasses.replace(good, **changes)  # type: ignore[arg-type]

    def sealed(
        self, spec: JobSpec, *, key: KeyPair | None = None, age_us: int = 0, audience: str = ""
    ) -> common_pb2.Envelope:
        """The spec signed, an hour valid from ``age_us`` ago on."""
        issued_at_us = time.time_ns() // 1000 - age_us
        envelope = seal(
            spec,
            key or self.key,
            audience=audience or self.audience,
            nonce=os.urandom(16),
            issued_at_us=issued_at_us,
            expires_at_us=issued_at_us + HOUR_US,
        )
        return common_pb2.Envelope(
            payload=envelope.payload,
            payload_type=envelope.payload_type,
            signatures=[
                common_pb2.Signature(key_id=item.key_id_hint, signature=item.signature)
                for item in envelope.signatures
            ],
        )

    def request(
        self, spec: common_pb2.Envelope, *, program: bytes = b"", request_id: str = ""
    ) -> job_pb2.SubmitJobRequest:
        """A submission of the job's files, or of other program bytes."""
        files: Mapping[str, bytes] = JOB.artifacts()
        if program:
            files = {**files, "program": program}
        digests = self._artifacts.ensure(files)
        return job_pb2.SubmitJobRequest(
            request_id=request_id or os.urandom(8).hex(),
            spec=spec,
            **{f"{name}_artifact": value for name, value in digests.items()},
        )

    def submit(self, request: job_pb2.SubmitJobRequest) -> str:
        return str(self._session.call(self._jobs.SubmitJob, request).job.job_id)

    def balances(self) -> tuple[int, int]:
        """Nano-units that are free, and reserved."""
        answer = self._session.call(self._ledger.GetAccount, ledger_pb2.GetAccountRequest())
        return answer.available.nano, answer.reserved.nano

    def quote(self, program: bytes) -> None:
        request = job_pb2.QuoteJobRequest(program=program, steps=10, segment_steps=4)
        self._session.call(self._jobs.QuoteJob, request)


@pytest.fixture(scope="module")
def crowd(open_market: Market) -> Iterator[Market]:
    """The market with one worker, so that prices exist."""
    worker = open_market.worker("bystander")
    yield open_market
    open_market.check()
    worker.process.stop()


@pytest.fixture(scope="module")
def connected(crowd: Market) -> Iterator[Attacker]:
    """The buyer's own key: nothing but the request itself is wrong."""
    attacker = Attacker(crowd, crowd.buyer_key)
    yield attacker
    attacker.close()


@pytest.fixture
def attacker(connected: Attacker) -> Iterator[Attacker]:
    """Afterwards its money must be where it was."""
    before = connected.balances()
    yield connected
    assert connected.balances() == before


def stranger(market: Market, *, money: str = "") -> KeyPair:
    """The key of another account."""
    key = KeyPair.generate()
    with market.client(key) as client:
        client.register("stranger")
        if money:
            client.deposit(market.operator_key, money)
    return key


def unsigned(envelope: common_pb2.Envelope) -> common_pb2.Envelope:
    del envelope.signatures[:]
    return envelope


def altered(envelope: common_pb2.Envelope) -> common_pb2.Envelope:
    """A price limit, or whatever is there, with one bit flipped."""
    payload = bytearray(envelope.payload)
    payload[-20] ^= 1
    envelope.payload = bytes(payload)
    return envelope


def too_large_program() -> bytes:
    """64 GiB of state: more than the one offer has."""
    spec = TensorSpec("w", float32, (2**34,))
    w = graph.input_("state", "w", float32, spec.shape)
    program = Program.build(
        frozen=[], state=[spec], inputs=[], next_state=[graph.mul(w, w)], outputs=[]
    )
    return program.to_bytes()


def huge_constant() -> bytes:
    """A program that announces a literal of 2 GiB; nothing that long follows."""
    good = raw_program([SCALAR])
    writer = Writer()
    writer.raw(good[: good.index(ONE) - 1])
    writer.natural(2**31)
    return writer.finish()


ENVELOPES: Mapping[str, tuple[Callable[[Attacker, Market], common_pb2.Envelope], str]] = {
    "unsigned": (lambda a, _: unsigned(a.sealed(a.spec())), "ENVELOPE_UNSIGNED"),
    "altered": (lambda a, _: altered(a.sealed(a.spec())), "ENVELOPE_BAD_SIGNATURE"),
    "expired": (lambda a, _: a.sealed(a.spec(), age_us=2 * HOUR_US), "ENVELOPE_EXPIRED"),
    "from the future": (
        lambda a, _: a.sealed(a.spec(), age_us=-2 * HOUR_US),
        "ENVELOPE_NOT_YET_VALID",
    ),
    "for another market": (
        lambda a, _: a.sealed(a.spec(), audience="0" * 64),
        "ENVELOPE_WRONG_AUDIENCE",
    ),
    "signed again by a key nobody knows": (
        lambda a, _: a.sealed(a.spec(), key=KeyPair.generate()),
        "ENVELOPE_UNKNOWN_KEY",
    ),
    "signed again by another account": (
        lambda a, market: a.sealed(a.spec(), key=stranger(market)),
        "SIGNER_OTHER_ACCOUNT",
    ),
    "in the name of another account": (
        lambda a, market: a.sealed(a.spec(buyer=stranger(market).key_id)),
        "NOT_THE_BUYER",
    ),
    "a budget below the quote": (
        lambda a, _: a.sealed(a.spec(max_price_nano=1)),
        "BUDGET_BELOW_QUOTE",
    ),
    "another program than it names": (
        lambda a, _: a.sealed(a.spec(program_digest=bytes(32))),
        "JOB_PROGRAM",
    ),
    "less memory than it needs": (
        lambda a, _: a.sealed(a.spec(max_memory_bytes=1)),
        "JOB_MEMORY",
    ),
    "a deadline that has passed": (lambda a, _: a.sealed(a.spec(deadline_us=1)), "JOB_DEADLINE"),
}
PROGRAMS = {
    name: (raw_program(nodes), code)  # type: ignore[arg-type]
    for name, (nodes, code) in HOSTILE.items()
} | {
    "2 GiB of constants": (huge_constant(), "PROGRAM_LIMIT"),
    "noise": (os.urandom(2000), "PROGRAM_MALFORMED"),
}


@pytest.mark.parametrize("name", ENVELOPES)
def test_a_job_that_is_not_what_it_should_be(crowd: Market, attacker: Attacker, name: str) -> None:
    build, code = ENVELOPES[name]
    with pytest.raises(FlopmarketError) as refusal:
        attacker.submit(attacker.request(build(attacker, crowd)))
    assert refusal.value.code == code, refusal.value


def test_hostile_programs_are_refused_when_quoted_and_when_submitted(attacker: Attacker) -> None:
    for name, (program, code) in PROGRAMS.items():
        for attempt in (
            lambda program=program: attacker.quote(program),
            lambda program=program: attacker.submit(
                attacker.request(attacker.sealed(attacker.spec()), program=program)
            ),
        ):
            with pytest.raises(FlopmarketError) as refusal:
                attempt()
            assert refusal.value.code == code, f"{name}: {refusal.value}"


def test_more_memory_than_any_offer_has(attacker: Attacker) -> None:
    program = too_large_program()
    attacker.quote(program)  # an answer, not an error: it says that no offer is eligible
    spec = attacker.spec(program_digest=Program.from_bytes(program).digest, max_memory_bytes=2**40)
    with pytest.raises(FlopmarketError) as refusal:
        attacker.submit(attacker.request(attacker.sealed(spec), program=program))
    assert refusal.value.code == "PROGRAM_TOO_LARGE"


def test_a_balance_too_small(crowd: Market) -> None:
    poor = Attacker(crowd, stranger(crowd, money="0.000000001"))
    with pytest.raises(FlopmarketError) as refusal:
        poor.submit(poor.request(poor.sealed(poor.spec())))
    assert refusal.value.code == "BALANCE_TOO_SMALL"
    poor.close()


def test_after_all_that_the_market_sells_a_job_once(crowd: Market, connected: Attacker) -> None:
    """Sent twice, replayed under another id, and with the id of another job: sold once."""
    before = connected.balances()
    request = connected.request(connected.sealed(connected.spec()))
    job_id = connected.submit(request)
    assert connected.submit(request) == job_id
    other_body = connected.request(
        connected.sealed(connected.spec()), request_id=request.request_id
    )
    for hostile, code in (
        (connected.request(request.spec), "ENVELOPE_REPLAYED"),
        (other_body, "REQUEST_ID_REUSED"),
    ):
        with pytest.raises(FlopmarketError) as refusal:
            connected.submit(hostile)
        assert refusal.value.code == code
    with crowd.client() as buyer:
        job = buyer.wait(job_id)
    assert (job.state_root.hex(), job.state.value) == (ONE_DIGEST[:64], "succeeded")
    assert connected.balances() == (before[0] - job.billed.nano, before[1])
    assert job.billed.nano > 0
