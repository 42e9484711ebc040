"""A plan on a device: how it is compiled, its memory, and its bound launches.

:func:`plan_for` makes the plan that suits a device, :class:`Resident` puts it there. Sessions
(``replay.py``) and one-shot evaluation (``prepared.py``) are built from both.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flopmarket.engine import dtypes, loop, probes_float64
from flopmarket.engine.codegen.emit import BufferKey
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.codegen.repeat import TURN
from flopmarket.engine.codegen.templates.gemm import GemmTile
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node, topological
from flopmarket.engine.numerics import Numerics
from flopmarket.engine.probes import build_options
from flopmarket.engine.runtime.launches import Launch, Repeat
from flopmarket.engine.runtime.memory import Buffer
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.schedule.plan import (
    AnyStep,
    LoopStep,
    Plan,
    Step,
    make_plan,
    size_bytes,
)

logger = logging.getLogger("flopmarket.engine")


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """How a program is compiled and run. No choice but ``numerics`` changes a bit of the results.

    ``numerics`` is the law of the kernels (the reference knows EXACT alone, which FAST allows).
    ``fusion`` False gives every operation a kernel. ``gemm_tile`` None lets the engine choose.
    ``poison`` fills every buffer with ``poison_byte`` before it is written, so that reading
    something uninitialised shows. ``cache_dir`` holds compiled kernels (None: the user's cache
    folder). ``max_bytes`` bounds device memory (None: what the device has). ``profile`` logs one
    line a kernel to ``flopmarket.engine`` at DEBUG, and waits for each.
    """

    fusion: bool = True
    gemm_tile: GemmTile | None = None
    poison: bool = False
    poison_byte: int = 0xFF
    cache_dir: Path | None = None
    max_bytes: int | None = None
    profile: bool = False
    numerics: Numerics = Numerics.EXACT


Binding = Mapping[BufferKey, Buffer]


class Resident:
    """A plan's own memory and launches on a device. Leaves and results come from outside."""

    def __init__(
        self, device: Device, plan: Plan, options: CompileOptions, outside: Iterable[BufferKey]
    ) -> None:
        self.device = device
        self.plan = plan
        self._options = options
        given = set(outside)
        options_for_driver = build_options(device.info, plan.numerics)
        self._module = None
        if plan.once or plan.steps:
            self._module = device.compile(
                plan.source, options=options_for_driver, numerics=plan.numerics
            )
        self._slabs = [device.alloc(count) for count in plan.slab_bytes]
        self._buffers: dict[BufferKey, Buffer] = {}
        for key in (*plan.constants, *plan.kept):
            if key not in given:
                self._buffers[key] = device.alloc(size_bytes(key))
        if options.poison:
            for buffer in (*self._slabs, *self._buffers.values()):
                buffer.poison(options.poison_byte)
        for key, slab in plan.places.items():
            self._buffers[key] = self._slabs[slab]
        for node in plan.constants:
            if node.elements:
                device.upload(self._buffers[node], np.frombuffer(node.arg, node.dtype.numpy))
        self._launches: dict[tuple[Any, ...], Launch] = {}

    def buffer(self, key: BufferKey) -> Buffer:
        """The plan's own buffer for ``key``."""
        return self._buffers[key]

    def owned(self) -> list[Buffer]:
        """Every allocation of this object"""
        places = self.plan.places
        return [*self._slabs, *(b for key, b in self._buffers.items() if key not in places)]

    def bind(self, steps: Sequence[AnyStep], outside: Binding) -> list[Launch | Repeat]:
        """Launches of ``steps`` with ``outside`` for what is not the plan's; equal ones meet."""
        return [
            self._repeat(step, outside)
            if isinstance(step, LoopStep)
            else self._launch(step, outside)
            for step in steps
        ]

    def _repeat(self, step: LoopStep, outside: Binding) -> Repeat:
        """A loop bound twice, its carries' buffers exchanged. Loops nest to a bounded depth."""
        call = step.call
        even, odd = (
            {inner: self._find(key, outside) for inner, key in names.items()}
            for names in (call.even, call.odd)
        )
        return Repeat(
            call.count,
            call.reverse,
            self.bind(step.once, even),
            (self.bind(step.steps, even), self.bind(step.steps, odd)),
        )

    def _find(self, key: BufferKey, outside: Binding) -> Buffer:
        return outside[key] if key in outside else self._buffers[key]

    def _launch(self, step: Step, outside: Binding) -> Launch:
        call = step.call
        buffers = [self._find(key, outside) for key in call.arguments]
        key = (step.name, call.global_size, call.sizes, *map(id, buffers))
        found = self._launches.get(key)
        if found is None:
            assert self._module is not None
            arguments: list[Buffer | np.generic] = list(buffers)
            if call.needs_zero:
                arguments.append(np.uint32(0))
            arguments.extend(np.int32(size) for size in call.sizes)
            found = self._module.launch(
                step.name,
                arguments,
                call.global_size,
                call.local_size,
                has_offset=TURN in call.text,
            )
            self._launches[key] = found
        return found

    def run(self, steps: Sequence[AnyStep], launches: Sequence[Launch | Repeat]) -> None:
        """Replay; with the option ``profile``, one at a time with a line each."""
        if not self._options.profile:
            self.device.run(launches)
            return
        self.device.finish()
        for step, launch in zip(steps, launches, strict=True):
            begin = time.perf_counter()
            self.device.run([launch])
            self.device.finish()
            seconds = max(time.perf_counter() - begin, 1e-9)
            logger.debug(
                "%-16s %9.1f us %8.2f GFLOP/s %8.2f GB/s %s",
                step.name,
                seconds * 1e6,
                step.call.flops / seconds / 1e9,
                step.call.size_bytes / seconds / 1e9,
                step.call.global_size,
            )

    def poison(self) -> None:
        """Garbage into everything that a step must write before it reads it."""
        for slab in self._slabs:
            slab.poison(self._options.poison_byte)

    def release(self) -> None:
        """Overwrite and free the plan's memory."""
        owned = self.owned()
        self._launches.clear()
        self.device.finish()
        self.device.wipe(owned)
        for buffer in owned:
            buffer.release()


def check_memory(device: Device, needed: int, options: CompileOptions) -> None:
    """Raise ``DEVICE_MEMORY`` unless ``needed`` bytes fit beside what is already allocated."""
    available = device.info.global_memory_bytes - device.allocated_bytes
    if options.max_bytes is not None:
        available = min(available, options.max_bytes)
    if needed > available:
        raise EngineError(
            f"the program needs {needed} bytes on {device.info.index_name}, "
            f"{max(0, available)} are available",
            code="DEVICE_MEMORY",
            hint="a smaller batch, or a device with more memory",
        )


def plan_for(
    outputs: Sequence[Node],
    device: Device,
    target: Target,
    options: CompileOptions,
    fixed: Collection[Node] = (),
) -> Plan:
    """The plan of canonical ``outputs`` under a device's limits, some leaves being ``fixed``.

    A schedule that code generation finds no index for is compiled without fusion instead: slower,
    and the same bits. Raises ``DEVICE_DTYPE`` for float64 on a device that has none.
    """
    target = _for_float64(outputs, device, target)

    def make(fusion: bool) -> Plan:
        return make_plan(
            outputs,
            target,
            fusion=fusion,
            tile=options.gemm_tile,
            fixed=fixed,
        )

    try:
        return make(options.fusion)
    except EngineError as error:
        if error.code != "SCHEDULE_INVALID" or not options.fusion:
            raise
        logger.warning("compiling without fusion: %s", error)
        return make(False)


def _for_float64(outputs: Sequence[Node], device: Device, target: Target) -> Target:
    """``target`` with what a program that uses float64 needs to know of it, if this one does."""
    nodes = topological(outputs)
    nodes += [node for body in loop.bodies(nodes) for node in body.nodes]
    used = next((n for n in nodes if n.dtype is dtypes.float64), None)
    if used is None:
        return target
    if not target.has_fp64:
        raise EngineError(
            f"{device.info.index_name} ({device.info.name}) has no float64, and the program "
            f"computes {used!r}",
            code="DEVICE_DTYPE",
            hint="a device with cl_khr_fp64, or float32",
        )
    helper = target.contract_helper and (
        target.is_fast or probes_float64.contraction_is_exact(device)
    )
    return replace(target, contract_helper_double=helper)
