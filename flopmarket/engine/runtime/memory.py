"""Device memory: one object for each allocation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyopencl as cl

from flopmarket.engine.errors import EngineError
from flopmarket.engine.runtime.failures import attempt

if TYPE_CHECKING:
    from flopmarket.engine.runtime.opencl import Device


class Buffer:
    """An allocation of device memory."""

    __slots__ = ("__weakref__", "device", "handle", "size_bytes")

    def __init__(self, device: Device, handle: Any, size_bytes: int) -> None:
        self.device = device
        self.handle = handle
        self.size_bytes = size_bytes

    def fill_zero(self) -> None:
        """Set every byte to zero (queued, in order)."""
        self.poison(0)

    def poison(self, byte: int) -> None:
        """Set every byte to ``byte``; 0xFF makes each float a NaN, which tests like (queued)."""
        width = next(w for w in (16, 8, 4, 2, 1) if self.size_bytes % w == 0)
        pattern = np.full(width, byte, np.uint8)
        with attempt(f"fill {self.size_bytes} bytes"):
            cl.enqueue_fill_buffer(self.device.queue, self.handle, pattern, 0, self.size_bytes)

    def release(self) -> None:
        """Give the memory back now. Using the buffer afterwards is an error."""
        with attempt(f"release {self.size_bytes} bytes"):
            self.handle.release()
        self.device._forget(self)


def check_range(action: str, buffer: Buffer, offset: int, size_bytes: int) -> None:
    """Raise ``BUFFER_RANGE`` unless the buffer has these bytes."""
    if offset < 0 or size_bytes < 0 or offset + size_bytes > buffer.size_bytes:
        raise EngineError(
            f"cannot {action} bytes {offset} to {offset + size_bytes}: "
            f"the buffer has {buffer.size_bytes}",
            code="BUFFER_RANGE",
        )
