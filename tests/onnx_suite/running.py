"""Running one case, and the comparison that onnx's own backend tests make."""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from flopmarket.engine.formats import onnx as fm_onnx
from tests.onnx_suite.cases import Case

SKIPS = Path(__file__).with_name("skips.txt")
KNOWN_FAILURES = Path(__file__).with_name("known_failures.txt")
TIMEOUT_S = 60
REAL_TIMEOUT_S = 600


@dataclass(frozen=True)
class Outcome:
    """What became of a case: 'passed', 'failed' or 'skipped', with a reason in one line."""

    name: str
    kind: str
    verdict: str
    reason: str = ""
    seconds: float = 0.0


@cache
def skips() -> dict[str, str]:
    """Cases that are not run, with reasons."""
    return _reasons(SKIPS)


@cache
def known_failures() -> dict[str, str]:
    """Cases that are run and counted as failed, with what is known about them."""
    return _reasons(KNOWN_FAILURES)


def _reasons(path: Path) -> dict[str, str]:
    """Lines of ``name: reason``."""
    lines = (line.split("#", 1)[0].strip() for line in path.read_text("utf-8").splitlines())
    return {
        name.strip(): reason.strip() for name, _, reason in (x.partition(":") for x in lines if x)
    }


def run_case(case: Case, device: str | None, timed: bool = False) -> Outcome:
    """Load, run and compare; never raises but for KeyboardInterrupt.

    ``timed`` ends a case that takes too long, by SIGALRM: a process's main thread only.
    """
    if reason := skips().get(case.name):
        return Outcome(case.name, case.kind, "skipped", reason)
    limit = REAL_TIMEOUT_S if case.kind == "real" else TIMEOUT_S
    started = time.monotonic()
    reason = ""
    if timed:
        signal.signal(signal.SIGALRM, _out_of_time)
        signal.alarm(limit)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(case, device)
    except TimeoutError:
        reason = f"more than {limit} s"
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    finally:
        if timed:
            signal.alarm(0)
    verdict = "failed" if reason else "passed"
    if reason:
        reason = known_failures().get(case.name, reason)
    return Outcome(case.name, case.kind, verdict, reason, time.monotonic() - started)


def _out_of_time(number: int, frame: Any) -> None:
    raise TimeoutError


def check(case: Case, device: str | None) -> None:
    """Raise unless the model's outputs are the expected ones."""
    model = fm_onnx.load(case.model())
    rtol, atol = case.tolerance
    for inputs, expected in case.data():
        names = [spec.name for spec in model.inputs]
        feed = dict(zip(names, inputs, strict=False))
        found = model.run(feed, device=device)
        compare([found[spec.name] for spec in model.outputs], expected, rtol, atol)


def compare(found: Sequence[Any], expected: Sequence[Any], rtol: float, atol: float) -> None:
    """onnx's rules: as many outputs, equal shapes and dtypes, values within the tolerance."""
    assert len(found) == len(expected), f"{len(found)} outputs, expected {len(expected)}"
    for at, (have, want) in enumerate(zip(found, expected, strict=True)):
        if isinstance(want, list | tuple) or isinstance(have, list | tuple):
            assert isinstance(have, list) and isinstance(want, list | tuple), f"output {at}: kind"
            compare(have, want, rtol, atol)
            continue
        if want is None or have is None:
            assert have is want, f"output {at}: {have} for {want}"
            continue
        want = np.asarray(want)
        assert have.shape == want.shape, f"output {at}: shape {have.shape}, want {want.shape}"
        if want.dtype == object:
            assert have.dtype == object, f"output {at}: {have.dtype} for strings"
            assert have.tolist() == _text(want).tolist(), f"output {at}: {have} for {want}"
            continue
        assert have.dtype == want.dtype, f"output {at}: {have.dtype}, want {want.dtype}"
        loose = rtol
        if have.dtype.name == "bfloat16":
            loose = max(rtol, 2**-6)
        if have.dtype.kind == "V" or have.dtype.name == "bfloat16":
            have, want = have.astype(np.float32), want.astype(np.float32)
        np.testing.assert_allclose(have, want, rtol=loose, atol=atol, err_msg=f"output {at}")


def _text(array: Any) -> Any:
    flat = [item.decode() if isinstance(item, bytes) else item for item in array.reshape(-1)]
    return np.array(flat, dtype=object).reshape(array.shape)


def table(outcomes: Iterable[Outcome]) -> str:
    """Counts by kind as a Markdown table."""
    rows: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        row = rows.setdefault(outcome.kind, {"passed": 0, "failed": 0, "skipped": 0})
        row[outcome.verdict] += 1
    lines = ["| kind | cases | passed | failed | skipped |", "|---|---:|---:|---:|---:|"]
    total = {"passed": 0, "failed": 0, "skipped": 0}
    for kind, row in rows.items():
        lines.append(_line(kind, row))
        total = {verdict: total[verdict] + count for verdict, count in row.items()}
    lines.append(_line("**all**", total))
    return "\n".join(lines)


def _line(label: str, row: dict[str, int]) -> str:
    counts = " | ".join(str(row[verdict]) for verdict in ("passed", "failed", "skipped"))
    return f"| {label} | {sum(row.values())} | {counts} |"
