"""Failed calls as errors of ours, whatever the peer puts into them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import grpc
import pytest

from flopmarket.client.failures import clean_text, from_rpc_error
from flopmarket.client.money import Money, nano_of
from flopmarket.errors import InvalidInput, Kind
from flopmarket.limits import MAX_REMOTE_TEXT_CHARACTERS


class Failed(grpc.RpcError, grpc.Call):
    """A failed call without a connection."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing: Any = ()) -> None:
        self._code, self._details, self._trailing = code, details, trailing

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailing

    def initial_metadata(self) -> Any:
        return ()

    def add_callback(self, callback: Any) -> bool:
        return False

    def cancel(self) -> bool:
        return False

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float | None:
        return None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, Kind.INVALID),
        (grpc.StatusCode.OUT_OF_RANGE, Kind.INVALID),
        (grpc.StatusCode.UNAUTHENTICATED, Kind.UNAUTHENTICATED),
        (grpc.StatusCode.PERMISSION_DENIED, Kind.FORBIDDEN),
        (grpc.StatusCode.NOT_FOUND, Kind.NOT_FOUND),
        (grpc.StatusCode.ALREADY_EXISTS, Kind.CONFLICT),
        (grpc.StatusCode.FAILED_PRECONDITION, Kind.CONFLICT),
        (grpc.StatusCode.ABORTED, Kind.CONFLICT),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Kind.QUOTA),
        (grpc.StatusCode.UNAVAILABLE, Kind.UNAVAILABLE),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Kind.UNAVAILABLE),
        (grpc.StatusCode.UNIMPLEMENTED, Kind.INTERNAL),
        (grpc.StatusCode.INTERNAL, Kind.INTERNAL),
        (grpc.StatusCode.UNKNOWN, Kind.INTERNAL),
        (grpc.StatusCode.DATA_LOSS, Kind.INTERNAL),
    ],
)
def test_kinds(status: grpc.StatusCode, kind: Kind) -> None:
    error = from_rpc_error(Failed(status, "why"), "host:1")
    assert error.kind is kind
    assert error.code and error.message
    assert error.retryable is (kind is Kind.UNAVAILABLE)


@pytest.mark.parametrize("trailing", [b"garbage", b"\x08\x05", b""])
def test_a_status_that_cannot_be_read_is_no_crash(trailing: bytes) -> None:
    failed = Failed(grpc.StatusCode.NOT_FOUND, "why", (("grpc-status-details-bin", trailing),))
    assert from_rpc_error(failed, "host:1").kind is Kind.NOT_FOUND


def test_a_long_message_is_cut_and_cleaned() -> None:
    failed = Failed(grpc.StatusCode.INTERNAL, "\x1b]0;evil\x07" + "x" * 10_000)
    message = from_rpc_error(failed, "host:1").message
    assert len(message) <= MAX_REMOTE_TEXT_CHARACTERS + 1
    assert message.isprintable()


def test_clean_text_keeps_what_people_write() -> None:
    assert clean_text("Überlänge – ok") == "Überlänge – ok"


@pytest.mark.parametrize(
    ("amount", "nano"),
    [("$0.25", 250_000_000), (Decimal("1E-9"), 1), (Decimal("2E+1"), 20 * 10**9), (Money(7), 7)],
)
def test_amounts(amount: Any, nano: int) -> None:
    assert nano_of(amount) == nano


@pytest.mark.parametrize("amount", [Decimal("NaN"), Decimal("1E-10"), "-1", "", Money(-1), 3, None])
def test_amounts_that_are_none(amount: Any) -> None:
    with pytest.raises(InvalidInput):
        nano_of(amount)


def test_money_shows_its_currency() -> None:
    assert str(Money(12_345)) == "$0.000012345"
    assert str(Money(2_500_000_000, "flopcoin")) == "2.50 flopcoin"
