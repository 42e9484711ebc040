"""Opening things: a device with its kernel cache, what code is generated for it, a session.

``open_session`` is what ``jobs/runner.py`` calls: it knows every way of running a program.
"""

from __future__ import annotations

from collections.abc import Callable

from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.errors import EngineError
from flopmarket.engine.numerics import Numerics
from flopmarket.engine.probes import contraction_is_exact
from flopmarket.engine.probes_matrix import matrix_units_work
from flopmarket.engine.program import Program
from flopmarket.engine.runtime import devices
from flopmarket.engine.runtime.cache import KernelCache
from flopmarket.engine.runtime.devices import DeviceInfo, DeviceKind
from flopmarket.engine.runtime.opencl import Device, open_device
from flopmarket.engine.runtime.replay import OpenCLSession
from flopmarket.engine.runtime.resident import CompileOptions
from flopmarket.engine.runtime.session import ReferenceSession, Session

REFERENCE = "reference"


def opened(info: DeviceInfo, options: CompileOptions | None = None) -> Device:
    """The device of a card, with the kernel cache of the options."""
    options = CompileOptions() if options is None else options
    try:
        cache = KernelCache(options.cache_dir)
    except EngineError:
        if options.cache_dir is not None:
            raise
        cache = None  # a read-only home costs time, not correctness
    return open_device(info, cache=cache)


Opener = Callable[[DeviceInfo, CompileOptions], Device]
"""How a device is opened."""


def open_target(
    device: Device,
    *,
    contract_helper: bool | None = None,
    numerics: Numerics = Numerics.EXACT,
) -> Target:
    """What code is generated for ``device`` under a law.

    ``contract_helper`` is what admission found; None probes now (one small kernel, cached). Under
    FAST nothing is asked of contraction, which is allowed whatever it does; instead matrix units
    are probed, where a driver may have them.
    """
    info = device.info
    if numerics is Numerics.FAST:
        contract_helper = True
    elif contract_helper is None:
        contract_helper = contraction_is_exact(device)
    return Target(
        is_cpu=info.kind is DeviceKind.CPU,
        contract_helper=contract_helper,
        has_fp64=info.has_fp64,
        vector_floats=info.native_vector_width_float,
        compute_units=info.compute_units,
        numerics=numerics,
        has_matrix_units=numerics is Numerics.FAST and matrix_units_work(device),
        can_group=info.max_work_group_size >= 256 and info.local_memory_bytes >= 1 << 15,
    )


def open_session(
    program: Program,
    device: str | DeviceInfo | None = None,
    options: CompileOptions | None = None,
    *,
    opener: Opener = opened,
) -> Session:
    """A session for ``program``: on the named device, on the first one, or on the reference.

    ``device`` is what ``devices.find`` takes, a card, "reference", or None (the first OpenCL
    device, or the reference where there is none). The session owns the device, which ``opener``
    opens.
    """
    if device == REFERENCE:
        return ReferenceSession(program)
    try:
        info = device if isinstance(device, DeviceInfo) else devices.find(device)
    except EngineError as error:
        if device is None and error.code == "DEVICE_NONE":
            return ReferenceSession(program)
        raise
    options = CompileOptions() if options is None else options
    handle = opener(info, options)
    try:
        target = open_target(handle, numerics=options.numerics)
        return OpenCLSession(program, handle, target, options, owns_device=True)
    except BaseException:
        handle.close()
        raise
