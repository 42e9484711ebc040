"""``python -m tests.onnx_suite [--match PATTERN ...] [--kind KIND] [--device NAME] [--docs]``."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatchcase
from multiprocessing import get_context

from tests.onnx_suite.cases import KINDS, Case, collect
from tests.onnx_suite.document import write_document
from tests.onnx_suite.running import Outcome, known_failures, run_case, table

_BATCH = 16


def main() -> int:
    arguments = _arguments()
    work = [(at, arguments.device) for at, case in enumerate(collect()) if _wanted(case, arguments)]
    work = work[:: arguments.stride]
    if arguments.processes == 1 or len(work) < _BATCH:
        outcomes = [_run(item) for item in work]
    else:
        with ProcessPoolExecutor(arguments.processes, get_context("fork")) as pool:
            outcomes = list(pool.map(_run, work, chunksize=_BATCH))
    for outcome in outcomes:
        if outcome.verdict == "failed" or arguments.verbose:
            print(f"{outcome.verdict:8}{outcome.kind:18}{outcome.name}  {outcome.reason}")
    slow = sorted(outcomes, key=lambda o: -o.seconds)[:3]
    print()
    print(table(outcomes))
    print("\nslowest: " + ", ".join(f"{o.name} {o.seconds:.1f} s" for o in slow))
    if arguments.reasons:
        _print_reasons(outcomes)
    if arguments.document:
        write_document(outcomes)
    return int(any(_is_surprise(outcome) for outcome in outcomes))


def _is_surprise(outcome: Outcome) -> bool:
    """A failure that is not known, or a known one that passes: the list is to be mended."""
    return outcome.verdict == ("passed" if outcome.name in known_failures() else "failed")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.onnx_suite")
    parser.add_argument("--match", action="append", help="shell pattern of case names; repeatable")
    parser.add_argument("--kind", action="append", choices=KINDS, help="repeatable; default: all")
    parser.add_argument(
        "--device",
        default="reference",
        help="a device, such as PoCL; zoo models run on the first one unless one is named",
    )
    parser.add_argument("--stride", type=int, default=1, help="only every n-th case")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--verbose", action="store_true", help="print every case")
    parser.add_argument("--reasons", action="store_true", help="count the reasons of failures")
    parser.add_argument("--document", action="store_true", help="write docs/onnx.md's tables")
    arguments = parser.parse_args()
    if arguments.device != "reference" and ":" not in arguments.device:
        arguments.device += ":0"
    return arguments


def _wanted(case: Case, arguments: argparse.Namespace) -> bool:
    if arguments.kind and case.kind not in arguments.kind:
        return False
    return not arguments.match or any(fnmatchcase(case.name, p) for p in arguments.match)


def _run(item: tuple[int, str]) -> Outcome:
    at = item[0]
    device: str | None = item[1]
    case = collect()[at]
    if case.kind == "real" and device == "reference":
        device = None
    return run_case(case, device, timed=True)


def _print_reasons(outcomes: list[Outcome]) -> None:
    reasons = Counter(o.reason.split(":", 1)[-1][:90] for o in outcomes if o.verdict == "failed")
    for reason, count in reasons.most_common(60):
        print(f"{count:5}  {reason}")


if __name__ == "__main__":
    sys.exit(main())
