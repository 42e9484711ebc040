"""Forgers: signatures, envelopes and receipts that prove nothing."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial

from flopmarket.demo.attacks.league import End, League
from flopmarket.demo.attacks.stage import BUYER, HONEST, Stage
from flopmarket.errors import FlopmarketError
from flopmarket.trust.documents import Deposit, DepositTarget, SessionRequest
from flopmarket.trust.envelope import Envelope
from flopmarket.trust.keys import KeyRole
from flopmarket.trust.receipt import verify_receipt
from flopmarket.v1 import common_pb2, identity_pb2, identity_pb2_grpc, ledger_pb2, ledger_pb2_grpc

_MINUTE_US = 60_000_000


def play(stage: Stage, league: League) -> None:
    """All of them."""
    stage.say("\n[bold]Forgers[/]")
    _forged_signature(stage, league)
    _replayed_envelope(stage, league)
    _own_deposit(stage, league)
    _doctored_receipt(stage, league)


def _code_of(call: Callable[[], object]) -> str:
    try:
        call()
    except FlopmarketError as error:
        return error.code
    return "accepted"


def _open(stage: Stage, envelope: common_pb2.Envelope) -> None:
    with stage.session(None) as session:
        service = identity_pb2_grpc.IdentityServiceStub(session.channel)
        request = identity_pb2.OpenSessionRequest(request=envelope)
        session.call(service.OpenSession, request, authenticated=False)


def _request(stage: Stage, name: str) -> common_pb2.Envelope:
    """A signed request for a session of the account of ``name``."""
    body = SessionRequest(account_id=stage.account(name), role=KeyRole.OWNER, purpose="attack")
    with stage.session(name) as session:
        return session.seal(body, lifetime_us=_MINUTE_US)


def _forged_signature(stage: Stage, league: League) -> None:
    forged = _request(stage, HONEST)
    signature = bytearray(forged.signatures[0].signature)
    signature[secrets.randbelow(len(signature))] ^= 1 << secrets.randbelow(8)
    forged.signatures[0].signature = bytes(signature)
    code = _code_of(lambda: _open(stage, forged))
    league.add(
        "forger", (23,), "one bit of a signature", End.REFUSED, code,
        code == "ENVELOPE_BAD_SIGNATURE",
    )  # fmt: skip


def _replayed_envelope(stage: Stage, league: League) -> None:
    caught = _request(stage, HONEST)
    _open(stage, caught)
    code = _code_of(lambda: _open(stage, caught))
    league.add(
        "replayer", (23,), "a session request sent again", End.REFUSED, code,
        code == "ENVELOPE_REPLAYED",
    )  # fmt: skip


def _own_deposit(stage: Stage, league: League) -> None:
    body = Deposit(
        account_id=stage.account(BUYER),
        target=DepositTarget.AVAILABLE,
        amount_nano=10**12,
        currency="USD",
        reference="trust me",
        request_id=secrets.token_hex(8),
    )

    def deposit() -> None:
        with stage.session(BUYER) as session:
            service = ledger_pb2_grpc.LedgerServiceStub(session.channel)
            envelope = session.seal(body, lifetime_us=_MINUTE_US)
            session.call(service.Deposit, ledger_pb2.DepositRequest(deposit=envelope))

    code = _code_of(deposit)
    league.add(
        "counterfeiter", (), "a deposit signed by its own owner", End.REFUSED, code,
        code == "SIGNER_NOT_ALLOWED",
    )  # fmt: skip


def _doctored_receipt(stage: Stage, league: League) -> None:
    """A receipt of a real job, with one byte of its statement changed, checked offline."""
    result = stage.buy(HONEST)
    envelope = Envelope.from_json(result.receipt_file)
    with stage.client(None) as anyone:
        public = anyone.coordinator().public_key
    codes = set()
    for at in range(0, len(envelope.payload), max(1, len(envelope.payload) // 50)):
        payload = bytearray(envelope.payload)
        payload[at] ^= 1
        doctored = Envelope(envelope.payload_type, bytes(payload), envelope.signatures)
        codes.add(_code_of(partial(verify_receipt, doctored.to_json(), public)))
    league.add(
        "accountant", (23,), "a receipt with one byte changed, in fifty places", End.REFUSED,
        ", ".join(sorted(codes)), codes == {"ENVELOPE_BAD_SIGNATURE"},
    )  # fmt: skip
