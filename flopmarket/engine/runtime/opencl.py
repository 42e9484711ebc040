"""OpenCL behind a small surface: compile, allocate, copy, run. All effects of the engine are here.

The replay loop, the tuner, admission and the benchmarks call this. A :class:`Device` owns one
context and one in-order queue and belongs to one thread; what it runs is in ``launches.py``. Every
failure is an :class:`EngineError` that says what was attempted and how big.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyopencl as cl

from flopmarket.engine.codegen import lint, lint_fast
from flopmarket.engine.errors import EngineError
from flopmarket.engine.numerics import Numerics
from flopmarket.engine.runtime import pocl
from flopmarket.engine.runtime.cache import KernelCache, cache_key
from flopmarket.engine.runtime.devices import DeviceInfo
from flopmarket.engine.runtime.failures import attempt, translated
from flopmarket.engine.runtime.launches import Launch, Module, Repeat, unrolled
from flopmarket.engine.runtime.memory import Buffer, check_range

LAUNCHES_PER_FLUSH = 32
"""A queue that is never flushed may not start before the host waits for it."""
LAUNCHES_PER_WAIT = 8_192
"""Launches after which the host waits: what is queued takes the host's memory."""
MAX_BUILD_LOG_CHARACTERS = 4_000
_RULES = {Numerics.EXACT: lint, Numerics.FAST: lint_fast}


def open_device(info: DeviceInfo, *, cache: KernelCache | None = None) -> Device:
    """Open the device that a card describes. ``cache`` None compiles everything anew.

    Raises :class:`EngineError` ``DEVICE_GONE`` when the card no longer fits what the driver lists.
    """
    with attempt(f"open {info.index_name} ({info.name})"):
        platform_index, device_index = info.position
        try:
            handle = cl.get_platforms()[platform_index].get_devices()[device_index]
        except IndexError:
            handle = None
        if handle is None or str(handle.driver_version).strip() != info.driver_version:
            raise EngineError(
                f"{info.index_name} ({info.name}, driver {info.driver_version}) is not there now",
                code="DEVICE_GONE",
                retryable=True,
                hint="discover the devices again",
            )
        pocl.repair(info, handle)
        context = cl.Context([handle])
        queue = cl.CommandQueue(context, handle)
    return Device(info, handle, context, queue, cache)


class Device:
    """One open device: its card, a context, an in-order queue. Made by :func:`open_device`.

    ``allocated_bytes`` counts live allocations. Work is queued in order; only
    ``download``, ``finish`` and ``wipe`` wait for it.
    """

    def __init__(
        self, info: DeviceInfo, handle: Any, context: Any, queue: Any, cache: KernelCache | None
    ) -> None:
        self.info = info
        self.handle = handle
        self.context = context
        self.queue = queue
        self.cache = cache
        self._live: weakref.WeakSet[Buffer] = weakref.WeakSet()

    @property
    def allocated_bytes(self) -> int:
        """Bytes of all allocations that are alive."""
        return sum(buffer.size_bytes for buffer in self._live)

    def compile(
        self,
        source: str,
        *,
        options: tuple[str, ...] = (),
        numerics: Numerics | None = Numerics.EXACT,
    ) -> Module:
        """Build OpenCL C, from the cache where possible.

        The source is checked against the rules of ``numerics`` first (raises ``LINT_...``): the
        cache holds what passed. None checks nothing. A build failure raises ``KERNEL_BUILD`` with
        the driver's log.
        """
        cache = self.cache
        if cache is not None:
            key = self._key(source, options, numerics)
            module = self._reload(cache, key, options)
            if module is not None:
                return module
        if numerics is not None:
            _RULES[numerics].check(source, options)
        if cache is None:
            return self._built(source, options)[0]
        with cache.locked(key):
            module = self._reload(cache, key, options)  # another process may just have built it
            if module is not None:
                return module
            module, binary = self._built(source, options)
            cache.store(key, binary)
        return module

    def is_built(self, source: str, options: tuple[str, ...]) -> bool:
        """Whether the cache holds the kernels of an exact source."""
        return self.cache is not None and self.cache.path(self._key(source, options)).exists()

    def alloc(self, size_bytes: int) -> Buffer:
        """Reserve device memory, uninitialised.

        Raises ``DEVICE_MEMORY`` (retryable) or ``BUFFER_SIZE`` when no such buffer can exist here.
        """
        limit = self.info.max_allocation_bytes
        if not 0 < size_bytes <= limit:
            raise EngineError(
                f"cannot allocate {size_bytes} bytes on {self.info.index_name}: "
                f"one allocation has 1 to {limit} bytes",
                code="BUFFER_SIZE",
            )
        with attempt(f"allocate {size_bytes} bytes beside {self.allocated_bytes}"):
            handle = cl.Buffer(self.context, cl.mem_flags.READ_WRITE, size_bytes)
        buffer = Buffer(self, handle, size_bytes)
        self._live.add(buffer)
        return buffer

    def upload(self, buffer: Buffer, array: np.ndarray[Any, Any], offset: int = 0) -> None:
        """Copy an array's bytes in C order to ``offset``; the array may be reused afterwards."""
        source = _as_words(np.ascontiguousarray(array))
        check_range("upload", buffer, offset, source.nbytes)
        if source.nbytes:
            with attempt(f"upload {source.nbytes} bytes"):
                cl.enqueue_copy(
                    self.queue, buffer.handle, source, dst_offset=offset, is_blocking=True
                )

    def download(self, buffer: Buffer, array: np.ndarray[Any, Any], offset: int = 0) -> None:
        """Fill a C-contiguous, writable array from ``offset``; waits for what was queued before."""
        if not (array.flags.c_contiguous and array.flags.writeable):
            raise EngineError(
                f"cannot download into an array of shape {array.shape}: it is not contiguous "
                "and writable",
                code="BUFFER_ARRAY",
            )
        check_range("download", buffer, offset, array.nbytes)
        if array.nbytes:
            with attempt(f"download {array.nbytes} bytes"):
                cl.enqueue_copy(
                    self.queue, _as_words(array), buffer.handle, src_offset=offset, is_blocking=True
                )

    def download_all(self, pairs: Iterable[tuple[Buffer, np.ndarray[Any, Any]]]) -> None:
        """Fill arrays, each whole, C-contiguous and writable, from buffers; waits once for all."""
        waiting = []
        try:
            for buffer, array in pairs:
                check_range("download", buffer, 0, array.nbytes)
                if array.nbytes:
                    with attempt(f"download {array.nbytes} bytes"):
                        waiting.append(
                            cl.enqueue_copy(
                                self.queue, _as_words(array), buffer.handle, is_blocking=False
                            )
                        )
        finally:
            self.finish()

    def copy(
        self,
        source: Buffer,
        target: Buffer,
        size_bytes: int,
        *,
        source_offset: int = 0,
        target_offset: int = 0,
    ) -> None:
        """Copy between two buffers of this device (queued, in order)."""
        check_range("copy from", source, source_offset, size_bytes)
        check_range("copy to", target, target_offset, size_bytes)
        if size_bytes:
            with attempt(f"copy {size_bytes} bytes"):
                cl.enqueue_copy(
                    self.queue,
                    target.handle,
                    source.handle,
                    byte_count=size_bytes,
                    src_offset=source_offset,
                    dst_offset=target_offset,
                )

    def run(self, launches: Iterable[Launch | Repeat]) -> None:
        """Enqueue launches in order and return at once; ``finish`` or ``download`` waits.

        Many launches are not all in the queue at once: it would grow faster than it is worked off.
        """
        queue, enqueue = self.queue, cl.enqueue_nd_range_kernel
        launch: Launch | None = None
        offset: tuple[int, int, int] | None
        try:
            for count, (launch, offset) in enumerate(unrolled(launches, None), start=1):
                enqueue(queue, launch.kernel, launch.global_size, launch.local_size, offset)
                if count % LAUNCHES_PER_FLUSH == 0:
                    queue.flush()
                    if count % LAUNCHES_PER_WAIT == 0:
                        queue.finish()
            queue.flush()
        except cl.Error as error:
            name = "nothing" if launch is None else f"{launch.name} over {launch.global_size}"
            raise translated(error, f"launch {name}") from error

    def finish(self) -> None:
        """Wait until everything queued is done."""
        with attempt("finish the queue"):
            self.queue.finish()

    def wipe(self, buffers: Iterable[Buffer] | None = None) -> None:
        """Overwrite buffers (all live ones by default) with zeros and wait.

        Nothing is left to read: run it between the jobs of two strangers.
        """
        for buffer in list(self._live) if buffers is None else buffers:
            buffer.fill_zero()
        self.finish()

    def close(self) -> None:
        """Wipe and release every allocation. The device must not be used afterwards."""
        self.wipe()
        for buffer in list(self._live):
            buffer.release()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _forget(self, buffer: Buffer) -> None:
        self._live.discard(buffer)

    def _key(
        self,
        source: str,
        options: tuple[str, ...],
        numerics: Numerics | None = Numerics.EXACT,
    ) -> str:
        """Under what the cache knows a source."""
        rules = "" if numerics is None else _RULES[numerics].rules_digest()
        target = pocl.target_name(self.info)
        return cache_key(source, options, self.info, target=target, checked_by=rules)

    def _built(self, source: str, options: tuple[str, ...]) -> tuple[Module, bytes]:
        """Build, ask for the binary, and load that instead of what was built.

        Asking PoCL for the binary compiles every work-group function, so that a first launch is as
        quick as any other; and cold code is, byte for byte, the code of warm starts.
        """
        binary = self._binary(source, options)
        loaded = self._load(binary, options)
        if loaded is None:
            return Module(self, self._build(source, options), from_cache=False), binary
        return Module(self, loaded, from_cache=False), binary

    def _binary(self, source: str, options: tuple[str, ...]) -> bytes:
        # The built program must be gone before its binary is loaded: PoCL keeps both in one folder,
        # which it empties when the first of them goes.
        program = self._build(source, options)
        with attempt("read the binary of a module"):
            (binary,) = program.get_info(cl.program_info.BINARIES)
        return bytes(binary)

    def _reload(self, cache: KernelCache, key: str, options: tuple[str, ...]) -> Module | None:
        binary = cache.load(key)
        if binary is None:
            return None
        program = self._load(binary, options)
        if program is None:  # verified bytes that the driver will not take: build anew
            cache.remove(key)
            return None
        return Module(self, program, from_cache=True)

    def _load(self, binary: bytes, options: tuple[str, ...]) -> Any:
        """The program of a driver's binary, or None where the driver refuses it."""
        try:
            program = cl.Program(self.context, [self.handle], [binary])
            program.build(options=list(options))
            program.all_kernels()
        except cl.Error:
            return None
        return program

    def _build(self, source: str, options: tuple[str, ...]) -> Any:
        program = cl.Program(self.context, source)
        try:
            program.build(options=list(options))
        except cl.Error as error:
            # pyopencl.RuntimeError carries source, options and the log in its text.
            log = _build_log(program, self.handle) or str(error)
            raise EngineError(
                f"{self.info.index_name} cannot build a kernel source of {len(source)} characters "
                f"(options {' '.join(options) or 'none'}): {log[:MAX_BUILD_LOG_CHARACTERS]}",
                code="KERNEL_BUILD",
            ) from error
        return program


def _as_words(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same memory under an integer type where Python's buffers have no name for the dtype."""
    return array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array


def _build_log(program: Any, handle: Any) -> str:
    with contextlib.suppress(cl.Error):
        return str(program.get_build_info(handle, cl.program_build_info.LOG)).strip()
    return ""
