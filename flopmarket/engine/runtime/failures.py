"""OpenCL's errors as the engine's own: what was attempted, and whether trying again may help."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pyopencl as cl

from flopmarket.engine.errors import EngineError

_RETRYABLE = frozenset(
    {"OUT_OF_RESOURCES", "MEM_OBJECT_ALLOCATION_FAILURE", "DEVICE_NOT_AVAILABLE"}
)


@contextlib.contextmanager
def attempt(what: str) -> Iterator[None]:
    """Turn an OpenCL error of the body into ours, naming what was attempted."""
    try:
        yield
    except cl.Error as error:
        raise translated(error, what) from error


def translated(error: Any, what: str) -> EngineError:
    """The engine's error for one of OpenCL's that came while doing ``what``."""
    # pyopencl says "clSomething failed: STATUS_NAME - ..."
    name = str(error).partition("failed: ")[2].split(" ")[0] or str(error)
    out_of_memory = isinstance(error, cl.MemoryError) or name in _RETRYABLE
    return EngineError(
        f"OpenCL could not {what}: {name}",
        code="DEVICE_MEMORY" if out_of_memory else "OPENCL",
        retryable=out_of_memory,
        hint="less may fit: the device is short of memory" if out_of_memory else "",
    )
