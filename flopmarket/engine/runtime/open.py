"""Opening things: a device with its kernel cache, what code is generated for it, a session.

``open_session`` is what ``jobs/runner.py`` calls: it knows every way of running a program.
"""

from __future__ import annotations

from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.errors import EngineError
from flopmarket.engine.probes import contraction_is_exact
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


def open_target(device: Device, *, contract_helper: bool | None = None) -> Target:
    """What code is generated for ``device``.

    ``contract_helper`` is what admission found; None probes now (one small kernel, cached).
    """
    info = device.info
    if contract_helper is None:
        contract_helper = contraction_is_exact(device)
    return Target(
        is_cpu=info.kind is DeviceKind.CPU,
        contract_helper=contract_helper,
        has_fp64=info.has_fp64,
        vector_floats=info.native_vector_width_float,
        compute_units=info.compute_units,
    )


def open_session(
    program: Program,
    device: str | DeviceInfo | None = None,
    options: CompileOptions | None = None,
) -> Session:
    """A session for ``program``: on the named device, on the first one, or on the reference.

    ``device`` is what ``devices.find`` takes, a card, "reference", or None (the first OpenCL
    device, or the reference where there is none). The session owns the device that it opens.
    """
    if device == REFERENCE:
        return ReferenceSession(program)
    try:
        info = device if isinstance(device, DeviceInfo) else devices.find(device)
    except EngineError as error:
        if device is None and error.code == "DEVICE_NONE":
            return ReferenceSession(program)
        raise
    handle = opened(info, options)
    try:
        return OpenCLSession(program, handle, open_target(handle), options, owns_device=True)
    except BaseException:
        handle.close()
        raise
