"""Units, JSON forms, and text that must not reach a terminal as it is."""

from __future__ import annotations

import pytest

from flopmarket.cli.output import Output, duration, instant, plain, printable, scaled, size
from flopmarket.cli.progress import ProgressDisplay
from flopmarket.client.money import Money
from flopmarket.client.results import ClassWork, EligibleOffer, JobEvent, JobInfo, JobState


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 FLOP"), (999, "999 FLOP"), (1.5e3, "1.5 kFLOP"), (3.21e15, "3.21 PFLOP")],
)
def test_scaled(value: float, text: str) -> None:
    assert scaled(value, "FLOP") == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (24 << 30, "24.0 GiB")]
)
def test_size(value: int, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.2 s"),
        (59, "59 s"),
        (125, "2 min 5 s"),
        (12_000, "3 h 20 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_instant() -> None:
    assert instant(1_700_000_000_000_000) == "2023-11-14 22:13:20"
    assert instant(0) == "-"
    assert instant(2**62) == "?"


def test_printable_removes_what_a_terminal_obeys() -> None:
    assert printable("a\x1b[31mb\u202ec\nd") == "a\ufffd[31mb\ufffdc d"


def test_amounts_are_integers_with_a_currency() -> None:
    offer = EligibleOffer(
        "o", "card", Money(5), 1.0, 0.5, 0.0, "unknown", 10**6, 0.0, "dot-f32", Money(7)
    )
    assert plain(offer) == {
        "offer_id": "o",
        "device_name": "card",
        "total_nano": 5,
        "currency": "USD",
        "seconds": 1.0,
        "setup_seconds": 0.5,
        "joules": 0.0,
        "joules_source": "unknown",
        "calibration_ppm": 1_000_000,
        "busy_seconds": 0.0,
        "work_class": "dot-f32",
        "per_pflop_nano": 7,
    }
    assert plain((ClassWork("dot-f32", 2**70), b"\x01", None, float("nan"))) == [
        {"work_class": "dot-f32", "flops_per_step": 2**70},
        "01",
        None,
        "nan",
    ]
    with pytest.raises(TypeError):
        plain(object())


def running_job(steps: int) -> JobInfo:
    return JobInfo(
        job_id="a" * 64,
        title="",
        state=JobState.RUNNING,
        kind="training",
        created_at_us=0,
        ended_at_us=0,
        steps=steps,
        steps_committed=0,
        steps_verified=0,
        segment_steps=1,
        ceiling=Money(10**9),
        billed=Money(25 * 10**7),
        reason="",
        segments=(),
        state_artifact="",
        state_root=b"",
        program_digest="",
    )


def test_progress_tells_step_loss_cost_and_time_left() -> None:
    now = [0.0]
    display = ProgressDisplay(clock=lambda: now[0])
    display(JobEvent(1, 0, "leased", "", running_job(100), 0, {}))
    display(JobEvent(1, 0, "progress", "", None, 10, {"loss": 0.25}))
    assert "left" not in display.status_line()
    now[0] = 5.0
    display(JobEvent(1, 0, "progress", "", None, 20, {"loss": 0.125}))
    expected = "step 20/100  loss 0.125  $0.25 of at most $1.00  40 s left"
    assert display.status_line() == expected
    display(JobEvent(1, 0, "progress", "", None, 15, {}))  # rolled back
    assert "left" not in display.status_line()


def test_a_table_cuts_no_amount_and_no_id(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(("id", ">price"), [("f" * 64, "$0.000000001"), ("x" * 200, "$1")], "nothing")
    shown = capsys.readouterr().out
    assert "f" * 64 in shown and "x" * 200 in shown and "$0.000000001" in shown


def test_progress_lines_are_few_when_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with ProgressDisplay(clock=lambda: now[0]) as display:
        for step in range(100):
            now[0] = step / 10
            display(JobEvent(0, 0, "progress", "", None, step, {}))
    assert len(capsys.readouterr().err.splitlines()) == 2
