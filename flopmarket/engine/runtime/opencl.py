"""OpenCL behind a small surface: compile, allocate, copy, run. All effects of the engine are here.

The replay loop, the tuner, admission and the benchmarks call this. A :class:`Device` owns one
context and one in-order queue and belongs to one thread. A :class:`Launch` is a kernel with its
arguments bound for good (one ``cl_kernel`` each), because on a CPU binding costs ten times what
enqueueing does. Every failure is an :class:`EngineError` that says what was attempted and how big.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyopencl as cl

from flopmarket.engine.codegen import lint
from flopmarket.engine.errors import EngineError
from flopmarket.engine.runtime import pocl
from flopmarket.engine.runtime.cache import KernelCache, cache_key
from flopmarket.engine.runtime.devices import DeviceInfo

LAUNCHES_PER_FLUSH = 32
"""A queue that is never flushed may not start before the host waits for it."""
LAUNCHES_PER_WAIT = 8_192
"""Launches after which the host waits: what is queued takes the host's memory."""
MAX_BUILD_LOG_CHARACTERS = 4_000

_RETRYABLE = frozenset(
    {"OUT_OF_RESOURCES", "MEM_OBJECT_ALLOCATION_FAILURE", "DEVICE_NOT_AVAILABLE"}
)


def open_device(info: DeviceInfo, *, cache: KernelCache | None = None) -> Device:
    """Open the device that a card describes. ``cache`` None compiles everything anew.

    Raises :class:`EngineError` ``DEVICE_GONE`` when the card no longer fits what the driver lists.
    """
    with _attempt(f"open {info.index_name} ({info.name})"):
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


class Buffer:
    """A range of device memory: an allocation of its own, or a view into one.

    ``offset`` is counted in bytes from the start of the root allocation. A view keeps its root
    alive and shares its bytes.
    """

    __slots__ = ("__weakref__", "_root", "device", "handle", "offset", "size_bytes")

    def __init__(
        self, device: Device, handle: Any, size_bytes: int, root: Buffer | None, offset: int
    ) -> None:
        self.device = device
        self.handle = handle
        self.size_bytes = size_bytes
        self.offset = offset
        self._root = root

    def view(self, offset: int, size_bytes: int) -> Buffer:
        """The bytes ``[offset, offset + size_bytes)`` as a buffer that shares this one's memory.

        The start must fall on the device's ``base_alignment_bytes``, else ``BUFFER_ALIGNMENT``.
        """
        _check_range("view", self, offset, size_bytes)
        root = self if self._root is None else self._root
        start = self.offset + offset
        alignment = self.device.info.base_alignment_bytes
        if start % alignment:
            raise EngineError(
                f"a view at byte {start} of a buffer does not start on a multiple of {alignment}",
                code="BUFFER_ALIGNMENT",
                hint="align offsets to DeviceInfo.base_alignment_bytes",
            )
        with _attempt(f"view {size_bytes} bytes at {start} of {root.size_bytes}"):
            handle = root.handle.get_sub_region(start, size_bytes)
        return Buffer(self.device, handle, size_bytes, root, start)

    def fill_zero(self) -> None:
        """Set every byte to zero (queued, in order)."""
        self.poison(0)

    def poison(self, byte: int) -> None:
        """Set every byte to ``byte``; 0xFF makes each float a NaN, which tests like (queued)."""
        width = next(w for w in (16, 8, 4, 2, 1) if self.size_bytes % w == 0)
        pattern = np.full(width, byte, np.uint8)
        with _attempt(f"fill {self.size_bytes} bytes"):
            cl.enqueue_fill_buffer(self.device.queue, self.handle, pattern, 0, self.size_bytes)

    def release(self) -> None:
        """Give the memory back now. Using the buffer, or a view of it, afterwards is an error."""
        with _attempt(f"release {self.size_bytes} bytes"):
            self.handle.release()
        self.device._forget(self)


class Launch:
    """A kernel with bound arguments and sizes, ready to be enqueued any number of times.

    ``has_offset``: in a loop it is enqueued with the turn as its global offset in the last axis.
    """

    __slots__ = ("_arguments", "global_size", "has_offset", "kernel", "local_size", "name")

    def __init__(
        self,
        kernel: Any,
        name: str,
        arguments: Sequence[Buffer | np.generic],
        global_size: tuple[int, ...],
        local_size: tuple[int, ...] | None,
        has_offset: bool = False,
    ) -> None:
        self.has_offset = has_offset
        self.kernel = kernel
        self.name = name
        self.global_size = global_size
        self.local_size = local_size
        self._arguments: list[Buffer | np.generic] = []  # OpenCL does not keep bound buffers alive
        if kernel.num_args != len(arguments):
            raise EngineError(
                f"kernel {name} takes {kernel.num_args} arguments, {len(arguments)} were given",
                code="KERNEL_ARGUMENTS",
            )
        self._arguments.extend(arguments)
        for index, value in enumerate(arguments):
            self.rebind(index, value)

    def rebind(self, index: int, value: Buffer | np.generic) -> None:
        """Replace one argument: a buffer, or a NumPy scalar of the exact type of the parameter."""
        if not isinstance(value, Buffer | np.generic):
            raise EngineError(
                f"argument {index} of kernel {self.name} is a {type(value).__name__}; "
                "pass a Buffer or a NumPy scalar",
                code="KERNEL_ARGUMENTS",
            )
        handle = value.handle if isinstance(value, Buffer) else value
        with _attempt(f"bind argument {index} of kernel {self.name}"):
            self.kernel.set_arg(index, handle)
        self._arguments[index] = value


@dataclass(frozen=True, slots=True)
class Repeat:
    """A loop of launches: ``once``, then ``count`` turns that take the two tapes by turns.

    With ``reverse`` the turns' global offsets count down to 0.
    """

    count: int
    reverse: bool
    once: Sequence[Launch | Repeat]
    tapes: tuple[Sequence[Launch | Repeat], Sequence[Launch | Repeat]]


class Module:
    """A compiled source. Every launch made from it gets a kernel object of its own."""

    __slots__ = ("_program", "device", "from_cache", "names")

    def __init__(self, device: Device, program: Any, *, from_cache: bool) -> None:
        self.device = device
        self.from_cache = from_cache
        self._program = program
        with _attempt("list the kernels of a module"):
            self.names = tuple(sorted(kernel.function_name for kernel in program.all_kernels()))

    def launch(
        self,
        name: str,
        arguments: Sequence[Buffer | np.generic],
        global_size: tuple[int, ...],
        local_size: tuple[int, ...] | None = None,
        *,
        has_offset: bool = False,
    ) -> Launch:
        """Bind kernel ``name`` to its arguments. Sizes are in work-items, one to three axes.

        Without ``local_size`` a kernel gets its ``reqd_work_group_size``, else the driver's choice.
        With ``has_offset`` sizes are filled up to three axes.
        Raises ``KERNEL_UNKNOWN``, ``KERNEL_ARGUMENTS`` or ``KERNEL_SIZE``.
        """
        if not 1 <= len(global_size) <= 3 or min(global_size) < 1:
            raise EngineError(f"kernel {name}: bad global size {global_size}", code="KERNEL_SIZE")
        kernel = self.kernel(name)
        if local_size is None:
            local_size = self._required_size(kernel, len(global_size))
        if local_size is not None and (
            len(local_size) != len(global_size)
            or min(local_size) < 1
            or any(g % s for g, s in zip(global_size, local_size, strict=True))
        ):
            raise EngineError(
                f"kernel {name}: work-group size {local_size} does not divide {global_size}",
                code="KERNEL_SIZE",
            )
        if has_offset:
            global_size = (*global_size, 1, 1)[:3]
            local_size = None if local_size is None else (*local_size, 1, 1)[:3]
        return Launch(kernel, name, arguments, global_size, local_size, has_offset)

    def kernel(self, name: str) -> Any:
        """A fresh ``pyopencl.Kernel``; ``launch`` is what almost every caller wants."""
        if name not in self.names:
            raise EngineError(
                f"the module has no kernel {name!r}, only {', '.join(self.names)}",
                code="KERNEL_UNKNOWN",
            )
        with _attempt(f"create kernel {name}"):
            return cl.Kernel(self._program, name)

    def _required_size(self, kernel: Any, axes: int) -> tuple[int, ...] | None:
        """The kernel's ``reqd_work_group_size``, or None: OpenCL wants it repeated at a launch."""
        query = cl.kernel_work_group_info.COMPILE_WORK_GROUP_SIZE
        with _attempt("read a kernel's work-group size"):
            size = tuple(int(n) for n in kernel.get_work_group_info(query, self.device.handle))
        return size[:axes] if all(size) else None


class Device:
    """One open device: its card, a context, an in-order queue. Made by :func:`open_device`.

    ``allocated_bytes`` counts live allocations (views are free). Work is queued in order; only
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

    def compile(self, source: str, *, options: tuple[str, ...] = (), exact: bool = True) -> Module:
        """Build OpenCL C, from the cache where possible.

        ``exact`` checks the source against profile FX1 first (raises ``LINT_...``). A build failure
        raises ``KERNEL_BUILD`` with the driver's log.
        """
        if exact:
            lint.check(source, options)
        cache = self.cache
        if cache is None:
            return self._built(source, options)[0]
        key = cache_key(source, options, self.info, target=pocl.target_name(self.info))
        module = self._reload(cache, key, options)
        if module is not None:
            return module
        with cache.locked(key):
            module = self._reload(cache, key, options)  # another process may just have built it
            if module is not None:
                return module
            module, binary = self._built(source, options)
            cache.store(key, binary)
        return module

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
        with _attempt(f"allocate {size_bytes} bytes beside {self.allocated_bytes}"):
            handle = cl.Buffer(self.context, cl.mem_flags.READ_WRITE, size_bytes)
        buffer = Buffer(self, handle, size_bytes, None, 0)
        self._live.add(buffer)
        return buffer

    def upload(self, buffer: Buffer, array: np.ndarray[Any, Any], offset: int = 0) -> None:
        """Copy an array's bytes in C order to ``offset``; the array may be reused afterwards."""
        source = _as_words(np.ascontiguousarray(array))
        _check_range("upload", buffer, offset, source.nbytes)
        if source.nbytes:
            with _attempt(f"upload {source.nbytes} bytes"):
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
        _check_range("download", buffer, offset, array.nbytes)
        if array.nbytes:
            with _attempt(f"download {array.nbytes} bytes"):
                cl.enqueue_copy(
                    self.queue, _as_words(array), buffer.handle, src_offset=offset, is_blocking=True
                )

    def download_all(self, pairs: Iterable[tuple[Buffer, np.ndarray[Any, Any]]]) -> None:
        """Fill arrays, each whole, C-contiguous and writable, from buffers; waits once for all."""
        waiting = []
        try:
            for buffer, array in pairs:
                _check_range("download", buffer, 0, array.nbytes)
                if array.nbytes:
                    with _attempt(f"download {array.nbytes} bytes"):
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
        _check_range("copy from", source, source_offset, size_bytes)
        _check_range("copy to", target, target_offset, size_bytes)
        if size_bytes:
            with _attempt(f"copy {size_bytes} bytes"):
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
            for count, (launch, offset) in enumerate(_unrolled(launches, None), start=1):
                enqueue(queue, launch.kernel, launch.global_size, launch.local_size, offset)
                if count % LAUNCHES_PER_FLUSH == 0:
                    queue.flush()
                    if count % LAUNCHES_PER_WAIT == 0:
                        queue.finish()
            queue.flush()
        except cl.Error as error:
            name = "nothing" if launch is None else f"{launch.name} over {launch.global_size}"
            raise _translated(error, f"launch {name}") from error

    def finish(self) -> None:
        """Wait until everything queued is done."""
        with _attempt("finish the queue"):
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
        with _attempt("read the binary of a module"):
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


def _unrolled(
    launches: Iterable[Launch | Repeat], offset: tuple[int, int, int] | None
) -> Iterator[tuple[Launch, tuple[int, int, int] | None]]:
    """Every launch in order with its global offset. Loops nest to a bounded depth."""
    for launch in launches:
        if isinstance(launch, Launch):
            yield launch, offset if launch.has_offset else None
            continue
        yield from _unrolled(launch.once, None)
        last = launch.count - 1
        for turn in range(launch.count):
            at = last - turn if launch.reverse else turn
            yield from _unrolled(launch.tapes[turn % 2], (0, 0, at))


def _as_words(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same memory under an integer type where Python's buffers have no name for the dtype."""
    return array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array


def _build_log(program: Any, handle: Any) -> str:
    with contextlib.suppress(cl.Error):
        return str(program.get_build_info(handle, cl.program_build_info.LOG)).strip()
    return ""


def _check_range(action: str, buffer: Buffer, offset: int, size_bytes: int) -> None:
    if offset < 0 or size_bytes < 0 or offset + size_bytes > buffer.size_bytes:
        raise EngineError(
            f"cannot {action} bytes {offset} to {offset + size_bytes}: "
            f"the buffer has {buffer.size_bytes}",
            code="BUFFER_RANGE",
        )


@contextlib.contextmanager
def _attempt(what: str) -> Iterator[None]:
    """Turn an OpenCL error of the body into ours, naming what was attempted."""
    try:
        yield
    except cl.Error as error:
        raise _translated(error, what) from error


def _translated(error: Any, what: str) -> EngineError:
    # pyopencl says "clSomething failed: STATUS_NAME - ..."
    name = str(error).partition("failed: ")[2].split(" ")[0] or str(error)
    out_of_memory = isinstance(error, cl.MemoryError) or name in _RETRYABLE
    return EngineError(
        f"OpenCL could not {what}: {name}",
        code="DEVICE_MEMORY" if out_of_memory else "OPENCL",
        retryable=out_of_memory,
        hint="less may fit: the device is short of memory" if out_of_memory else "",
    )
