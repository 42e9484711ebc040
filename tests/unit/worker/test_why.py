"""Why a device is idle, as its own machine knows it: every reason of the worker, provoked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from flopmarket.client.results_orders import OfferExplanation
from flopmarket.engine.cost import WORK_CLASSES
from flopmarket.errors import FlopmarketError, InvalidInput, NotFound
from flopmarket.market.coin import suggested_ask_nano_per_hour
from flopmarket.market.money import FLOPCOIN
from flopmarket.market.reasons import REASONS, Reason
from flopmarket.trust.keys import KeyPair
from flopmarket_worker import up
from flopmarket_worker.asking import parse_ask
from flopmarket_worker.calibration import Measured
from flopmarket_worker.link import Coordinator
from flopmarket_worker.link_speed import LinkSpeed
from flopmarket_worker.local_state import (
    AgentState,
    DeviceState,
    Notes,
    is_running,
    read_state,
    saver,
)
from flopmarket_worker.offers import Calibration, DeviceCard, NotAdmitted, OwnerTerms
from flopmarket_worker.repricing import Repricer, reason_of
from flopmarket_worker.tariff import Tariff
from flopmarket_worker.telemetry.ports import DeclaredPower, UnknownPower
from flopmarket_worker.week import Hour, parse_schedule
from flopmarket_worker.why import explain, why

DEVICE = DeviceState("PoCL:0", "f" * 64, "a card", "offer-1", ask_nano_per_hour=5)
CONNECTED = AgentState("127.0.0.1:1", account_id="me", phase="connected", devices=(DEVICE,))
CALIBRATION = Calibration(b"a" * 32, dict.fromkeys(WORK_CLASSES, 10**9), 10**9, 1000, 0, 0)


class Enlisted:
    """`up.enlist` of one device whose measuring ends as a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = folder
        self.monkeypatch = monkeypatch
        self.states: list[AgentState] = []
        self.owner = OwnerTerms(1, 0, UnknownPower())
        self.currency = "USD"
        self.failure: FlopmarketError | None = None

    def run(self) -> list[Any]:
        async def calibrate(*_: object, **__: object) -> Measured:
            if self.failure is not None:
                raise self.failure
            return MeasuredCard()  # type: ignore[return-value]

        self.monkeypatch.setattr(up, "calibrate", calibrate)
        options = up.UpOptions(
            "127.0.0.1:1", None, ("PoCL:0",), self.owner, self.folder, self.folder, None, "me",
            None, "test", "", "", 0,
        )  # fmt: skip
        notes = Notes(AgentState("127.0.0.1:1"), self.states.append)
        return asyncio.run(up.enlist(options, notes, FakeLink(self.currency)))  # type: ignore[arg-type]


class MeasuredCard:
    info: dict[str, Any] = {"device_id": "f" * 64, "name": "a card", "uuid": "1"}  # noqa: RUF012
    calibration = CALIBRATION
    refusal = ""


class FakeLink:
    device_key = KeyPair.from_seed(b"d" * 32)
    lineage = device_key.key_id

    def __init__(self, currency: str) -> None:
        self.currency = currency

    async def coordinator(self) -> Coordinator:
        return Coordinator("c" * 64, self.currency, KeyPair.generate().public, worker_port=0)


@pytest.fixture
def enlisted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Enlisted:
    return Enlisted(monkeypatch, tmp_path)


def reasons_seen(states: list[AgentState]) -> list[str]:
    return [device.reason for state in states for device in state.devices]


def test_a_device_is_calibrating_and_then_offered(enlisted: Enlisted) -> None:
    (device,) = enlisted.run()
    assert device.owner.ask_nano_per_hour == 1
    assert reasons_seen(enlisted.states)[0] == Reason.CALIBRATING
    last = enlisted.states[-1].devices[0]
    assert (last.device, last.name) == ("PoCL:0", "a card")
    assert last.offer_id.startswith(FakeLink.device_key.key_id[:16])


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (NotAdmitted("probe 7 differs"), Reason.FAST_ONLY),
        (FlopmarketError("the engine died"), Reason.NOT_MEASURED),
    ],
)
def test_a_device_that_is_not_offered_says_why(
    enlisted: Enlisted, failure: FlopmarketError, reason: Reason
) -> None:
    enlisted.failure = failure
    with pytest.raises(FlopmarketError):
        enlisted.run()
    last = enlisted.states[-1].devices[0]
    assert last.reason == reason and failure.message in last.detail
    told = explain(last, CONNECTED, True, None)
    assert told.state == "not offered" and failure.message in told.summary
    assert told.reasons[0].code == reason and told.reasons[0].hint


def test_without_an_ask_flopcoin_has_a_peg_and_money_has_none(enlisted: Enlisted) -> None:
    enlisted.owner = OwnerTerms(0, 0, UnknownPower())
    with pytest.raises(InvalidInput) as error:
        enlisted.run()
    assert error.value.code == "ASK_MISSING"
    enlisted.currency = FLOPCOIN
    (device,) = enlisted.run()
    expected = suggested_ask_nano_per_hour(CALIBRATION.flops_per_second)
    assert device.owner.ask_nano_per_hour == expected


class OneDevice:
    card = DeviceCard("f" * 64, "a card", "none", 1 << 30, 1 << 28)
    calibration = CALIBRATION

    def __init__(self, owner: OwnerTerms) -> None:
        self.owner = owner


@pytest.mark.parametrize(
    ("owner", "closed", "opened", "reason"),
    [
        (
            OwnerTerms(5, 0, UnknownPower(), schedule=parse_schedule(["22-6"])),
            Hour(0, 12),
            Hour(0, 23),
            Reason.SCHEDULE_CLOSED,
        ),
        (
            OwnerTerms(
                5,
                0,
                DeclaredPower(100_000),
                formula=parse_ask("hour - tariff * 40", Tariff(Fraction("0.30"))),
            ),
            Hour(0, 12),
            Hour(0, 13),
            Reason.TARIFF,
        ),
    ],
)
def test_an_hour_in_which_nothing_is_offered(
    owner: OwnerTerms, closed: Hour, opened: Hour, reason: Reason, tmp_path: Path
) -> None:
    device = OneDevice(owner)
    repricer = Repricer(
        {"f" * 64: device},
        LinkSpeed(tmp_path / "link.json"),
        account_id="me",
        device_key_id="k" * 64,
    )
    listing = repricer.all(closed)
    (error,) = listing.withdrawn.values()
    assert reason_of(error) is reason and not listing.terms
    notes = Notes(AgentState("", devices=(DEVICE,)), lambda _: None)
    notes.kept_back("f" * 64, reason_of(error), error.message)
    (noted,) = notes.state.devices
    told = explain(noted, CONNECTED, True, None)
    assert told.reasons[0].code == reason and REASONS[reason].for_owners in told.summary
    assert len(repricer.changes(opened).terms) == 1
    assert list(repricer.changes(closed).withdrawn) == ["f" * 64]
    assert repricer.changes(closed) == type(listing)()
    notes.offered("f" * 64, 7)
    assert notes.state.devices[0].reason == "" and notes.state.devices[0].ask_nano_per_hour == 7


KNOWN = OfferExplanation("offer-1", "a card", "idle", "no order waits", ())


@pytest.mark.parametrize(
    ("running", "state", "known", "status", "code"),
    [
        (False, CONNECTED, KNOWN, "offline", "OFFLINE"),
        (True, AgentState("", phase="draining", devices=(DEVICE,)), KNOWN, "not offered",
         "DRAINING"),
        (True, CONNECTED, None, "withdrawn", "OFFER_REFUSED"),
        (True, AgentState("", phase="connecting", detail="refused", devices=(DEVICE,)), None,
         "offline", "OFFLINE"),
        (True, CONNECTED, KNOWN, "idle", ""),
    ],
)  # fmt: skip
def test_what_the_worker_adds_to_the_coordinators_answer(
    running: bool, state: AgentState, known: OfferExplanation | None, status: str, code: str
) -> None:
    told = explain(DEVICE, state, running, known)
    assert told.state == status
    assert [reason.code for reason in told.reasons] == ([code] if code else [])
    if known is KNOWN and not code:
        assert told.summary == "no order waits"


def test_a_refused_offer_is_remembered_until_the_next_hello() -> None:
    notes = Notes(CONNECTED, lambda _: None)
    notes.kept_back("f" * 64, Reason.OFFER_REFUSED, "an ask is above zero [OFFER_ASK]")
    told = explain(notes.state.devices[0], notes.state, True, None)
    assert "OFFER_ASK" in told.summary and told.reasons[0].code == "OFFER_REFUSED"


def test_the_state_of_a_worker_is_written_whole_and_read_back(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None and not is_running(tmp_path)
    notes = Notes(AgentState("127.0.0.1:1"), saver(tmp_path))
    notes.device("PoCL:0", reason="CALIBRATING")
    notes.phase("connected")
    assert read_state(tmp_path) == notes.state
    assert [path.name for path in tmp_path.iterdir()] == ["agent.json"]
    with up.only_worker_in(tmp_path):
        assert is_running(tmp_path)
    assert not is_running(tmp_path)
    (tmp_path / "agent.json").write_text('{"address": "", "devices": [{"what": 1}]}')
    with pytest.raises(InvalidInput) as error:
        read_state(tmp_path)
    assert error.value.code == "AGENT_STATE_MALFORMED"


def test_why_of_a_worker_that_is_not_running(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as error:
        why(tmp_path)
    assert error.value.code == "AGENT_UNKNOWN" and "--work-dir" in error.value.hint
    saver(tmp_path)(CONNECTED)
    (told,) = why(tmp_path, "pocl")
    assert told.state == "offline" and told.reasons[0].code == "OFFLINE"
    with pytest.raises(NotFound) as error:
        why(tmp_path, "radeon")
    assert error.value.code == "DEVICE_UNKNOWN"


def test_why_when_the_coordinator_does_not_answer(tmp_path: Path) -> None:
    saver(tmp_path)(CONNECTED)
    with up.only_worker_in(tmp_path):
        (told,) = why(tmp_path)
    assert told.state == "offline" and "does not answer" in told.summary


WORKER_REASONS: dict[Reason, Callable[..., None]] = {
    Reason.CALIBRATING: test_a_device_is_calibrating_and_then_offered,
    Reason.FAST_ONLY: test_a_device_that_is_not_offered_says_why,
    Reason.NOT_MEASURED: test_a_device_that_is_not_offered_says_why,
    Reason.SCHEDULE_CLOSED: test_an_hour_in_which_nothing_is_offered,
    Reason.TARIFF: test_an_hour_in_which_nothing_is_offered,
    Reason.DRAINING: test_what_the_worker_adds_to_the_coordinators_answer,
    Reason.OFFER_REFUSED: test_a_refused_offer_is_remembered_until_the_next_hello,
}
"""Which test here provokes which reason; the coordinator's tests provoke the others."""
