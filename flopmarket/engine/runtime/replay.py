"""Plans on devices: buffers, bound launches, and the session that replays them step after step.

:class:`Resident` puts one :class:`Plan` on one device. :class:`OpenCLSession` runs a program with
it: frozen tensors are uploaded once, the state lives in two sets of buffers that take turns (two
tapes of prebuilt launches, for even and odd steps), and a step uploads its inputs, replays a tape
and downloads the outputs. Nothing is scheduled or compiled in a step. A step that fails leaves the
state as it was.
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
from flopmarket.engine.graph import Node, input_, topological
from flopmarket.engine.probes import build_options
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.engine.runtime.opencl import Buffer, Device, Launch, Repeat
from flopmarket.engine.runtime.session import check_tensors, seed_words
from flopmarket.engine.schedule.plan import (
    AnyStep,
    LoopStep,
    Plan,
    Step,
    make_plan,
    size_bytes,
)

Array = np.ndarray[Any, Any]

logger = logging.getLogger("flopmarket.engine")


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """How a program is compiled and run. No choice changes a bit of the results.

    ``fusion`` False gives every operation a kernel. ``gemm_tile`` None lets the engine choose.
    ``poison`` fills every buffer with 0xFF before it is written, so that reading something
    uninitialised shows. ``cache_dir`` holds compiled kernels (None: the user's cache folder).
    ``max_bytes`` bounds device memory (None: what the device has). ``profile`` logs one line a
    kernel to ``flopmarket.engine`` at DEBUG, and waits for each.
    """

    fusion: bool = True
    gemm_tile: GemmTile | None = None
    poison: bool = False
    cache_dir: Path | None = None
    max_bytes: int | None = None
    profile: bool = False


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
        options_for_driver = build_options(device.info)
        self._module = None
        if plan.once or plan.steps:
            self._module = device.compile(plan.source, options=options_for_driver)
        self._slabs = [device.alloc(count) for count in plan.slab_bytes]
        self._buffers: dict[BufferKey, Buffer] = {}
        for key in (*plan.constants, *plan.kept):
            if key not in given:
                self._buffers[key] = device.alloc(size_bytes(key))
        if options.poison:
            for buffer in (*self._slabs, *self._buffers.values()):
                buffer.poison(0xFF)
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
            slab.poison(0xFF)

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
    helper = target.contract_helper and probes_float64.contraction_is_exact(device)
    return replace(target, contract_helper_double=helper)


@dataclass(frozen=True, slots=True)
class _StateRule:
    """How one state tensor gets its next value.

    'keep': it never changes. 'swap': a kernel writes the other buffer. 'copy': the next value lies
    in another buffer and is copied to the other one.
    """

    spec: TensorSpec
    leaf: Node
    next: Node
    how: str


class OpenCLSession:
    """A program resident on an OpenCL device (the protocol is ``runtime/session.py``)."""

    def __init__(
        self,
        program: Program,
        device: Device,
        target: Target,
        options: CompileOptions | None = None,
        *,
        owns_device: bool = False,
    ) -> None:
        self._program = program
        self._device = device
        self._options = options = CompileOptions() if options is None else options
        self._owns_device = owns_device
        self._parity = 0
        self._loaded = False
        outputs = tuple(dict.fromkeys([*program.state_nodes, *program.output_nodes]))
        self.plan = plan_for(outputs, device, target, options)
        self._rules = self._state_rules()
        check_memory(device, self._needed_bytes(), options)
        swapped = {rule.next for rule in self._rules if rule.how == "swap"}
        self._buffers = self._allocate()
        self._resident = Resident(device, self.plan, options, swapped)
        self._tapes = [self._resident.bind(self.plan.steps, self._binding(p)) for p in (0, 1)]
        self._once = self._resident.bind(self.plan.once, self._binding(0))

    # ------------------------------------------------------------ building

    def _state_rules(self) -> list[_StateRule]:
        rules: list[_StateRule] = []
        claimed: set[Node] = set()
        for spec, node in zip(self._program.state, self._program.state_nodes, strict=True):
            leaf = input_("state", spec.name, spec.dtype, spec.shape)
            how = "copy"
            if node is leaf:
                how = "keep"
            elif node not in claimed and node in self.plan.kept:
                claimed.add(node)
                how = "swap"
            rules.append(_StateRule(spec, leaf, node, how))
        return rules

    def _needed_bytes(self) -> int:
        states = sum(
            spec_bytes(rule.spec) * (1 if rule.how in ("keep", "swap") else 2)
            for rule in self._rules
        )
        leaves = sum(size_bytes(leaf) for leaf in self._leaves())
        return self.plan.planned_bytes + leaves + states

    def _leaves(self) -> list[Node]:
        """Leaves that are read and are no state: frozen tensors, inputs, seed, step."""
        return [leaf for leaf in self.plan.leaves if leaf.arg[0] != "state"]

    def _allocate(self) -> dict[tuple[Node, int], Buffer]:
        """Buffers of leaves by (node, parity); only state has two."""
        out: dict[tuple[Node, int], Buffer] = {}
        for leaf in self._leaves():
            out[leaf, 0] = out[leaf, 1] = self._device.alloc(size_bytes(leaf))
        for rule in self._rules:
            out[rule.leaf, 0] = self._device.alloc(spec_bytes(rule.spec))
            if rule.how == "keep":
                out[rule.leaf, 1] = out[rule.leaf, 0]
            else:
                out[rule.leaf, 1] = self._device.alloc(spec_bytes(rule.spec))
        if self._options.poison:
            for buffer in out.values():
                buffer.poison(0xFF)
        return out

    def _binding(self, parity: int) -> dict[BufferKey, Buffer]:
        """Buffers in a step of ``parity``: state is read from it and written to the other one."""
        binding: dict[BufferKey, Buffer] = {
            node: buffer for (node, p), buffer in self._buffers.items() if p == parity
        }
        for rule in self._rules:
            if rule.how == "swap":
                binding[rule.next] = self._buffers[rule.leaf, 1 - parity]
        return binding

    # ------------------------------------------------------------ the protocol

    @property
    def program(self) -> Program:
        return self._program

    def load(self, frozen: Mapping[str, Array], state: Mapping[str, Array]) -> None:
        check_tensors(self._program.frozen, frozen, "frozen")
        check_tensors(self._program.state, state, "state")
        self._parity = 0
        for leaf in self._leaves():
            if leaf.arg[0] == "frozen":
                self._upload(leaf, frozen[leaf.arg[1]])
        for rule in self._rules:
            self._upload(rule.leaf, state[rule.spec.name])
        self._resident.run(self.plan.once, self._once)
        self._device.finish()
        self._loaded = True

    def step(self, inputs: Mapping[str, Array], *, seed: int, step: int) -> dict[str, Array]:
        if not self._loaded:
            raise EngineError("the session has no state yet", code="SESSION_EMPTY", hint="load")
        check_tensors(self._program.inputs, inputs, "input")
        if self._options.poison:
            self._poison()
        for leaf in self._leaves():
            kind, name = leaf.arg
            if kind == "input":
                self._upload(leaf, inputs[name])
            elif kind == "seed":
                self._upload(leaf, seed_words(seed))
            elif kind == "step":
                self._upload(leaf, np.asarray(step, dtype=np.uint32))
        self._resident.run(self.plan.steps, self._tapes[self._parity])
        binding = self._binding(self._parity)
        for rule in self._rules:
            if rule.how == "copy" and rule.leaf.elements:
                self._device.copy(
                    self._find(rule.next, binding),
                    self._buffers[rule.leaf, 1 - self._parity],
                    spec_bytes(rule.spec),
                )
        outputs = {}
        for spec, node in zip(self._program.outputs, self._program.output_nodes, strict=True):
            outputs[spec.name] = self._read(self._find(node, binding), spec)
        self._device.finish()
        self._parity = 1 - self._parity
        return outputs

    def read_state(self) -> dict[str, Array]:
        return {
            rule.spec.name: self._read(self._buffers[rule.leaf, self._parity], rule.spec)
            for rule in self._rules
        }

    def close(self) -> None:
        if self._owns_device:
            self._device.close()
            return
        buffers = list(dict.fromkeys(self._buffers.values()))
        self._tapes, self._once = [], []
        self._resident.release()
        self._device.wipe(buffers)
        for buffer in buffers:
            buffer.release()

    # ------------------------------------------------------------ helpers

    def _find(self, node: Node, binding: Binding) -> Buffer:
        return binding[node] if node in binding else self._resident.buffer(node)

    def _upload(self, leaf: Node, array: Array) -> None:
        if leaf.elements:
            self._device.upload(self._buffers[leaf, self._parity], dtypes.canonical(array))

    def _read(self, buffer: Buffer, spec: TensorSpec) -> Array:
        array = np.empty(spec.shape, spec.dtype.numpy)
        if array.size:
            self._device.download(buffer, array)
        return array

    def _poison(self) -> None:
        self._resident.poison()
        for rule in self._rules:
            if rule.how != "keep":
                self._buffers[rule.leaf, 1 - self._parity].poison(0xFF)


def spec_bytes(spec: TensorSpec) -> int:
    """Bytes of a tensor's buffer."""
    return max(1, spec.size_bytes)
