"""FX1 on every OpenCL runtime of this machine, each in a process of its own.

A runtime is a library that an OpenCL loader finds through a folder of ``.icd`` files; which ones
are loaded is decided once for a process. So each runtime gets a child with a vendor folder that
names it alone. The child admits the device and runs random programs on it.

``python -m tests.tools.runtimes`` prints a table for docs/devices.md, ``--json`` one record a line.
"""

from __future__ import annotations

import argparse
import ctypes.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

Record = dict[str, Any]

RANDOM_PROGRAMS = 24
CHILD_SECONDS = 600
INTEL_VARIABLE = "FLOPMARKET_INTEL_OPENCL"
"""Names libintelocl.so where it lies in no folder that is searched."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """One OpenCL implementation. ``library`` is what its ``.icd`` file names; None for the one that
    is bundled with pyopencl. ``absent`` says what to do to have it."""

    name: str
    family: str
    absent: str
    soname: str | None = None
    candidates: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    is_exact: bool = True
    """Whether it is known to compute FX1. Others are fast-only, and that is a right answer too."""


RUNTIMES: tuple[Runtime, ...] = (
    Runtime("PyPI's PoCL", "PoCL", "pip install 'pyopencl[pocl]'"),
    Runtime(
        "Debian's PoCL",
        "PoCL",
        "Debian's pocl-opencl-icd is not installed",
        soname="libpocl.so.2",
    ),
    Runtime(
        "Intel's CPU runtime",
        "Intel",
        f"intel-opencl-rt and intel-cmplr-lib-rt are not installed (or {INTEL_VARIABLE} not set)",
        soname="libintelocl.so",
        candidates=(f"{sys.prefix}/lib/libintelocl.so",),
    ),
    Runtime(
        "rusticl on llvmpipe",
        "rusticl",
        "Debian's mesa-opencl-icd is not installed",
        soname="libRusticlOpenCL.so.1",
        environment={"RUSTICL_ENABLE": "llvmpipe"},
        is_exact=False,
    ),
)


def library_of(runtime: Runtime) -> str | None:
    """Path or name of the runtime's library, None where this machine does not have it."""
    if runtime.soname is None:
        return ""
    named = os.environ.get(INTEL_VARIABLE, "") if runtime.family == "Intel" else ""
    for path in (named, *runtime.candidates):
        if path and Path(path).exists():
            return path
    stem = runtime.soname.removeprefix("lib").partition(".so")[0]
    found = ctypes.util.find_library(stem)
    return found if found == runtime.soname else None


def examine(
    runtime: Runtime, *, programs: int = RANDOM_PROGRAMS, probes_only: bool = False
) -> Record:
    """Admission and random programs on a runtime, in a child process.

    The record of ``flop bench golden --json`` with ``random``: how many random programs ran, and
    what went wrong with which. ``{"absent": reason}`` where there is no such runtime or device.
    With ``probes_only`` the record holds ``failed_probes`` alone: enough to refuse a device, and
    quick where a driver builds slowly.
    """
    library = library_of(runtime)
    if library is None:
        return {"absent": runtime.absent}
    with tempfile.TemporaryDirectory() as folder:
        if library:
            Path(folder, "one.icd").write_text(f"{library}\n", encoding="utf-8")
        environment = dict(os.environ) | dict(runtime.environment)
        environment["OCL_ICD_VENDORS"] = folder
        if "/" in library:
            paths = [str(Path(library).parent), environment.get("LD_LIBRARY_PATH", "")]
            environment["LD_LIBRARY_PATH"] = ":".join(path for path in paths if path)
        command = [sys.executable, "-W", "ignore", "-m", "tests.tools.runtimes", "--child"]
        skip = json.dumps(bundled()) if library else "null"
        count = "probes" if probes_only else str(programs)
        done = subprocess.run(
            [*command, runtime.family, skip, count],
            env=environment,
            capture_output=True,
            text=True,
            timeout=CHILD_SECONDS,
            check=False,
            cwd=Path(__file__).parents[2],
        )
    if done.returncode:
        return {"absent": f"{runtime.name} could not be examined: {done.stderr[-400:]}"}
    record: Record = json.loads(done.stdout.splitlines()[-1])
    return record


@cache
def bundled() -> list[str]:
    """Platform and driver version of the PoCL that pyopencl brings along to every process."""
    code = (
        "from flopmarket.engine.runtime import devices; import json;"
        "print(json.dumps([[d.platform_version, d.driver_version] for d in devices.discover()]))"
    )
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ) | {"OCL_ICD_VENDORS": folder}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    found: list[list[str]] = json.loads(done.stdout)
    return found[0] if found else []


def _child(family: str, skip: list[str] | None, count: str) -> Record:
    """What a child process does, its vendor folder being set."""
    from flopmarket.bench.golden import golden
    from flopmarket.engine.probes import run_probes
    from flopmarket.engine.runtime import devices
    from flopmarket.engine.runtime.open import opened

    cards = [
        card
        for card in devices.discover()
        if card.family == family and [card.platform_version, card.driver_version] != (skip or [])
    ]
    if not cards:
        return {"absent": f"the library loads, but shows no device of {family}"}
    name = cards[0].index_name
    if count == "probes":
        with opened(cards[0]) as device:
            results = run_probes(device)
        return {"failed_probes": {r.name: r.detail for r in results if not r.passed}}
    return golden(name).to_json() | {"random": _random_programs(name, int(count))}


def _random_programs(device: str, count: int) -> Record:
    """Random programs, fused, against the reference; several in one build."""
    from random import Random

    from flopmarket.engine import reference
    from flopmarket.engine.errors import EngineError
    from flopmarket.engine.graph import Node
    from flopmarket.engine.rewrite import canonicalise
    from flopmarket.engine.runtime.realise import Realiser
    from flopmarket.engine.runtime.resident import CompileOptions
    from tests.engine.backend.random_graphs import Array, grown

    together = 8
    realiser = Realiser(CompileOptions(poison=True), max_plans=1)
    wrong: list[str] = []
    for first in range(0, count, together):
        outputs: list[Node] = []
        leaves: dict[Node, Array] = {}
        for seed in range(first, min(count, first + together)):
            more, given = grown(Random(seed), seed, f"s{seed}_")
            outputs += more
            leaves |= given
        outputs = list(dict.fromkeys(outputs))
        expected = reference.evaluate(canonicalise(outputs), leaves)
        try:
            found = realiser.realise(outputs, leaves, device)
        except EngineError as error:
            wrong.append(f"programs {first} to {first + together - 1}: {error}"[:200])
            continue
        wrong += [
            f"programs {first} to {first + together - 1}: {node!r}"
            for node, want, have in zip(outputs, expected, found, strict=True)
            if want.tobytes() != have.tobytes()
        ]
    realiser.close()
    return {"count": count, "wrong": wrong}


def main() -> int:
    """Examine all; exit code 1 where one that should be exact is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one record a line")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        family, skip, count = options.child
        print(json.dumps(_child(family, json.loads(skip), count)))
        return 0
    from flopmarket.bench.golden import table_row

    failed = False
    for runtime in RUNTIMES:
        record = examine(runtime)
        if options.json:
            print(json.dumps({"runtime": runtime.name} | record), flush=True)
        elif "absent" in record:
            print(f"{runtime.name}: {record['absent']}", file=sys.stderr)
        else:
            wrong = record["random"]["wrong"]
            print(table_row(record), flush=True)
            for line in wrong:
                print(f"  {line}", file=sys.stderr)
        failed |= runtime.is_exact and not record.get("admitted", True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
