"""A graph made ready on a device, for one-shot evaluation: plan, memory, launches, leaf buffers.

:mod:`realise` keeps several of these; admission makes one for its golden graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flopmarket.engine import reference
from flopmarket.engine.codegen.emit import BufferKey
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.runtime.memory import Buffer
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.runtime.resident import CompileOptions, Resident, check_memory, plan_for
from flopmarket.engine.schedule.plan import size_bytes

Array = np.ndarray[Any, Any]


class Prepared:
    """Canonical ``outputs`` compiled for a device. ``run`` may be called any number of times.

    ``fixed`` gives values of leaves that never change, model weights above all: they are uploaded
    and packed once, and what only the packing reads is not kept. Values of the others come with
    every run. Raises EngineError (``DEVICE_MEMORY``, ``PLAN_TOO_LARGE``, ``KERNEL_BUILD``, and
    ``INPUT_...`` for ``fixed``) on construction.
    """

    def __init__(
        self,
        outputs: Sequence[Node],
        device: Device,
        target: Target,
        options: CompileOptions,
        fixed: Mapping[Node, Array] | None = None,
    ) -> None:
        self._device = device
        self._options = options
        known = {} if fixed is None else fixed
        self.plan = plan_for(tuple(dict.fromkeys(outputs)), device, target, options, known.keys())
        self.size_bytes = self.plan.planned_bytes + sum(map(size_bytes, self.plan.leaves))
        check_memory(device, self.size_bytes, options)
        self._resident = Resident(device, self.plan, options, ())
        self._leaves = {leaf: device.alloc(size_bytes(leaf)) for leaf in self.plan.leaves}
        self._fixed = {
            leaf: reference.leaf_value(leaf, known) for leaf in self._leaves if leaf in known
        }
        self.given = tuple(leaf for leaf in self._leaves if leaf not in known)
        steps = self.plan.steps
        if fixed is None:
            steps = (*self.plan.once, *steps)
        self._steps = steps
        binding: dict[BufferKey, Buffer] = {leaf: self._leaves[leaf] for leaf in self._leaves}
        self._launches = self._resident.bind(steps, binding)
        if fixed is not None:
            self._settle(binding)

    def _settle(self, binding: Mapping[BufferKey, Buffer]) -> None:
        """Upload what is fixed, compute what depends on nothing else, and keep what is read."""
        for leaf, array in self._fixed.items():
            if leaf.elements:
                self._device.upload(self._leaves[leaf], array)
        self._resident.run(self.plan.once, self._resident.bind(self.plan.once, binding))
        self._device.finish()
        read = {key for step in self._steps for key in step.call.arguments}
        unread = {leaf: self._leaves.pop(leaf) for leaf in self._fixed if leaf not in read}
        self._device.wipe(unread.values())
        for leaf, buffer in unread.items():
            buffer.release()
            self.size_bytes -= size_bytes(leaf)
        self._fixed = {leaf: self._fixed[leaf] for leaf in self._fixed if leaf in self.plan.outputs}

    def run(self, values: Mapping[Node, Array]) -> dict[Node, Array]:
        """Values of the outputs, canonical, given canonical values of the leaves in ``given``."""
        self.compute(values)
        found = {node: self._result(node, values) for node in self.plan.outputs}
        self._device.download_all(
            (self._resident.buffer(n), a) for n, a in found.items() if n.op is not Op.INPUT
        )
        return found

    def compute(self, values: Mapping[Node, Array]) -> None:
        """Queue the computation; :meth:`buffer` says where the outputs will lie."""
        if self._options.poison:
            self._resident.poison()
        for leaf in self.given:
            if leaf.elements:
                self._device.upload(self._leaves[leaf], values[leaf])
        self._resident.run(self._steps, self._launches)

    def buffer(self, node: Node) -> Buffer:
        """Device memory of an output that is no leaf; the next computation overwrites it."""
        return self._resident.buffer(node)

    def _result(self, node: Node, values: Mapping[Node, Array]) -> Array:
        """A leaf's value, or room for a computed one."""
        if node.op is Op.INPUT:
            return (self._fixed[node] if node in self._fixed else values[node]).copy()
        return np.empty(node.shape, node.dtype.numpy)

    def release(self) -> None:
        """Overwrite and free the device memory."""
        self._launches = []
        self._resident.release()
        self._device.wipe(self._leaves.values())
        for buffer in self._leaves.values():
            buffer.release()
