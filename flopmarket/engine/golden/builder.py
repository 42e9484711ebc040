"""A second process that builds kernels while admission runs, from the other end of the suite.

A compiler of a CPU driver keeps one core busy for twenty seconds and holds a lock, so that threads
do not help. The process shares nothing with admission but the kernel cache: what it has built there
is found, what it fails at is built again, and it is ended when admission is through.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.errors import EngineError
from flopmarket.engine.golden import macros, suite
from flopmarket.engine.macros import LAW
from flopmarket.engine.probes import build_options
from flopmarket.engine.runtime import devices
from flopmarket.engine.runtime.devices import DeviceKind
from flopmarket.engine.runtime.open import open_target, opened
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.runtime.resident import CompileOptions, plan_for

MIN_PROGRAMS = 24
"""Golden programs below which a second process is not worth its start."""
END_SECONDS = 10.0
"""How long an ended process may take to be gone."""


@contextlib.contextmanager
def second_builder(device: Device, *, contract_helper: bool) -> Iterator[None]:
    """Build kernels of the golden programs beside the body, where that saves time.

    It does on a CPU with two cores or more whose cache does not hold them yet.
    """
    process = _started(device, contract_helper) if _is_worthwhile(device, contract_helper) else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)


def _is_worthwhile(device: Device, contract_helper: bool) -> bool:
    if device.info.kind is not DeviceKind.CPU or (os.cpu_count() or 1) < 2:
        return False
    names = list(suite.programs())
    if device.cache is None or len(names) < MIN_PROGRAMS:
        return False
    target = open_target(device, contract_helper=contract_helper)
    return not device.is_built(*_source(names[-1], device, target))


def _started(device: Device, contract_helper: bool) -> subprocess.Popen[bytes] | None:
    assert device.cache is not None
    command = [sys.executable, "-m", __name__, device.info.index_name]
    command += [str(device.cache.directory), str(int(contract_helper))]
    quiet = subprocess.DEVNULL
    try:
        return subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
    except OSError:
        return None  # where no process may be started, one builds alone


def _source(name: str, device: Device, target: Target) -> tuple[str, tuple[str, ...]]:
    """Source and options of a golden program's kernels."""
    nodes = tuple(dict.fromkeys(suite.programs()[name]().nodes))
    plan = plan_for(nodes, device, target, CompileOptions())
    return plan.source, build_options(device.info)


def build(index_name: str, directory: Path, *, contract_helper: bool, parent: int) -> None:
    """Fill the cache in ``directory``, the last program first, as long as ``parent`` lives."""
    with opened(devices.find(index_name), CompileOptions(cache_dir=directory)) as device:
        target = open_target(device, contract_helper=contract_helper)
        with contextlib.suppress(EngineError):
            macros.Sweep(LAW, (device, target), chunk=macros.CHECKSUM_CHUNK, sums=True).close()
        for name in reversed(suite.programs()):
            if os.getppid() != parent:
                return
            with contextlib.suppress(EngineError):  # admission says what does not build
                source, options = _source(name, device, target)
                device.compile(source, options=options)


if __name__ == "__main__":
    build(
        sys.argv[1],
        Path(sys.argv[2]),
        contract_helper=sys.argv[3] == "1",
        parent=os.getppid(),
    )
