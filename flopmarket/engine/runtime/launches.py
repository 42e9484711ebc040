"""Kernels with their arguments bound for good, loops of them, and the modules that they come from.

A :class:`Launch` has a ``cl_kernel`` of its own, because on a CPU binding costs ten times what
enqueueing does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyopencl as cl

from flopmarket.engine.errors import EngineError
from flopmarket.engine.runtime.failures import attempt
from flopmarket.engine.runtime.memory import Buffer

if TYPE_CHECKING:
    from flopmarket.engine.runtime.opencl import Device


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
        with attempt(f"bind argument {index} of kernel {self.name}"):
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
        with attempt("list the kernels of a module"):
            self.names = tuple(sorted(program.get_info(cl.program_info.KERNEL_NAMES).split(";")))

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
        with attempt(f"create kernel {name}"):
            return cl.Kernel(self._program, name)

    def _required_size(self, kernel: Any, axes: int) -> tuple[int, ...] | None:
        """The kernel's ``reqd_work_group_size``, or None: OpenCL wants it repeated at a launch."""
        query = cl.kernel_work_group_info.COMPILE_WORK_GROUP_SIZE
        with attempt("read a kernel's work-group size"):
            size = tuple(int(n) for n in kernel.get_work_group_info(query, self.device.handle))
        return size[:axes] if all(size) else None


def unrolled(
    launches: Iterable[Launch | Repeat], offset: tuple[int, int, int] | None
) -> Iterator[tuple[Launch, tuple[int, int, int] | None]]:
    """Every launch in order with its global offset. Loops nest to a bounded depth."""
    for launch in launches:
        if isinstance(launch, Launch):
            yield launch, offset if launch.has_offset else None
            continue
        yield from unrolled(launch.once, None)
        last = launch.count - 1
        for turn in range(launch.count):
            at = last - turn if launch.reverse else turn
            yield from unrolled(launch.tapes[turn % 2], (0, 0, at))
