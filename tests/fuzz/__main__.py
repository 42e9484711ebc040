"""Fuzz every target in turn: ``python -m tests.fuzz --seconds 600 [TARGET ...]``.

What is learned stays in ``.fuzz`` (ignored by git) and the next run goes on from there; findings
lie in ``.fuzz/findings``. ``--seeds`` writes the seeds that are missing from tests/fuzz/corpus,
``--keep`` adds the smallest input for each way of being refused that none of them shows.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.registry import TARGETS
from tests.fuzz.target import CORPUS, MAX_SEED_BYTES, Target, attempt

WORK = Path(".fuzz")
MAX_MEMORY_MIB = 1_536
HANG_SECONDS = 10
"""libFuzzer's own bound on the wall clock; the bound on processor time is tests.fuzz.target's."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help="all of them, if none is named"
    )
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together")
    parser.add_argument("--seeds", action="store_true", help="write missing seeds, fuzz nothing")
    parser.add_argument("--keep", action="store_true", help="keep an input of each new outcome")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.targets) - set(TARGETS))
    if unknown:
        parser.error(f"no target {unknown[0]}; there are {', '.join(TARGETS)}")
    chosen = [TARGETS[name] for name in arguments.targets or TARGETS]
    write_seeds(chosen)
    if arguments.seeds:
        return 0
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is missing: `make fuzz` installs it")
    failed = [target.name for target in chosen if not fuzz(target, arguments.seconds / len(chosen))]
    if arguments.keep:
        for target in chosen:
            keep(target)
    print(f"\n{len(chosen) - len(failed)} targets clean, {len(failed)} with a finding", *failed)
    return int(bool(failed))


def write_seeds(targets: list[Target]) -> None:
    """Seeds are written once and stay: a changed format keeps its old ones as hostile inputs."""
    for target in targets:
        folder = CORPUS / target.name
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in target.seeds().items():
            path = folder / name
            if not path.exists():
                path.write_bytes(data)


def fuzz(target: Target, seconds: float) -> bool:
    """Whether ``seconds`` of fuzzing found nothing; prints one line, and the traceback if not."""
    learned, findings = WORK / "corpus" / target.name, WORK / "findings" / target.name
    learned.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    done = _child(
        target,
        f"-max_total_time={max(1, round(seconds))}",
        f"-timeout={HANG_SECONDS}",
        f"-rss_limit_mb={MAX_MEMORY_MIB}",
        f"-artifact_prefix={findings}/",
        "-print_final_stats=1",
        str(learned),
        str(CORPUS / target.name),
    )
    log = done.stderr + done.stdout
    runs, places = (
        re.findall(pattern, log) for pattern in (r"number_of_executed_units: (\d+)", r"cov: (\d+)")
    )
    clean = done.returncode == 0
    print(
        f"{target.name:20} {'clean' if clean else 'FINDING':8} "
        f"{(runs or ['?'])[-1]:>10} runs {(places or ['?'])[-1]:>6} places "
        f"{time.monotonic() - started:5.0f} s",
        flush=True,
    )
    if not clean:
        print(log[-6_000:], flush=True)
    return clean


def keep(target: Target) -> None:
    """Add the smallest learned input for each outcome that no committed one has."""
    folder = CORPUS / target.name
    outcomes = {attempt(target, path.read_bytes()) for path in folder.iterdir()}
    learned = [path.read_bytes() for path in (WORK / "corpus" / target.name).iterdir()]
    for data in sorted(learned, key=lambda data: (len(data), data)):
        if len(data) < MAX_SEED_BYTES and (outcome := attempt(target, data)) not in outcomes:
            outcomes.add(outcome)
            (folder / f"found-{outcome.lower().replace('_', '-')}").write_bytes(data)


def _child(target: Target, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz.child", target.name, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


if __name__ == "__main__":
    sys.exit(main())
