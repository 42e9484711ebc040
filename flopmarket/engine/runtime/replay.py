"""Sessions on OpenCL devices: a program's state replayed step after step.

Frozen tensors are uploaded once, the state lives in two sets of buffers that take turns (two tapes
of prebuilt launches, for even and odd steps), and a step uploads its inputs, replays a tape and
downloads the outputs. Nothing is scheduled or compiled in a step. A step that fails leaves the
state as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flopmarket.engine import dtypes
from flopmarket.engine.codegen.emit import BufferKey
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node, input_
from flopmarket.engine.program import Program, TensorSpec
from flopmarket.engine.runtime.memory import Buffer
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.runtime.resident import (
    Binding,
    CompileOptions,
    Resident,
    check_memory,
    plan_for,
)
from flopmarket.engine.runtime.session import check_tensors, seed_words
from flopmarket.engine.schedule.plan import Plan, size_bytes

Array = np.ndarray[Any, Any]


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
        self.plan = plan_for(results_of(program), device, target, options)
        self._rules = _state_rules(program, self.plan)
        check_memory(device, needed_bytes(program, self.plan), options)
        swapped = {rule.next for rule in self._rules if rule.how == "swap"}
        self._buffers = self._allocate()
        self._resident = Resident(device, self.plan, options, swapped)
        self._tapes = [self._resident.bind(self.plan.steps, self._binding(p)) for p in (0, 1)]
        self._once = self._resident.bind(self.plan.once, self._binding(0))

    # ------------------------------------------------------------ building

    def _allocate(self) -> dict[tuple[Node, int], Buffer]:
        """Buffers of leaves by (node, parity); only state has two."""
        out: dict[tuple[Node, int], Buffer] = {}
        for leaf in _leaves(self.plan):
            out[leaf, 0] = out[leaf, 1] = self._device.alloc(size_bytes(leaf))
        for rule in self._rules:
            out[rule.leaf, 0] = self._device.alloc(spec_bytes(rule.spec))
            if rule.how == "keep":
                out[rule.leaf, 1] = out[rule.leaf, 0]
            else:
                out[rule.leaf, 1] = self._device.alloc(spec_bytes(rule.spec))
        if self._options.poison:
            for buffer in out.values():
                buffer.poison(self._options.poison_byte)
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
        for leaf in _leaves(self.plan):
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
        for leaf in _leaves(self.plan):
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
                self._buffers[rule.leaf, 1 - self._parity].poison(self._options.poison_byte)


def needed_bytes(program: Program, plan: Plan) -> int:
    """Device memory that a session of ``program`` allocates, ``plan`` being that of its results."""
    states = sum(
        spec_bytes(rule.spec) * (1 if rule.how in ("keep", "swap") else 2)
        for rule in _state_rules(program, plan)
    )
    return plan.planned_bytes + sum(size_bytes(leaf) for leaf in _leaves(plan)) + states


def results_of(program: Program) -> tuple[Node, ...]:
    """What a plan of ``program`` computes."""
    return tuple(dict.fromkeys([*program.state_nodes, *program.output_nodes]))


def _state_rules(program: Program, plan: Plan) -> list[_StateRule]:
    rules: list[_StateRule] = []
    claimed: set[Node] = set()
    for spec, node in zip(program.state, program.state_nodes, strict=True):
        leaf = input_("state", spec.name, spec.dtype, spec.shape)
        how = "copy"
        if node is leaf:
            how = "keep"
        elif node not in claimed and node in plan.kept:
            claimed.add(node)
            how = "swap"
        rules.append(_StateRule(spec, leaf, node, how))
    return rules


def _leaves(plan: Plan) -> list[Node]:
    """Leaves that are read and are no state: frozen tensors, inputs, seed, step."""
    return [leaf for leaf in plan.leaves if leaf.arg[0] != "state"]


def spec_bytes(spec: TensorSpec) -> int:
    """Bytes of a tensor's buffer."""
    return max(1, spec.size_bytes)
