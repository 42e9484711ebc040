"""A graph made ready on a device, for one-shot evaluation: plan, memory, launches, leaf buffers.

:mod:`realise` keeps several of these; admission makes one for its golden graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flopmarket.engine import dtypes
from flopmarket.engine.codegen.emit import BufferKey
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node
from flopmarket.engine.runtime.opencl import Buffer, Device
from flopmarket.engine.runtime.replay import CompileOptions, Resident, check_memory, plan_for
from flopmarket.engine.schedule.plan import size_bytes

Array = np.ndarray[Any, Any]


class Prepared:
    """Canonical ``outputs`` compiled for a device. ``run`` may be called any number of times.

    Raises EngineError (``DEVICE_MEMORY``, ``PLAN_TOO_LARGE``, ``KERNEL_BUILD``) on construction.
    """

    def __init__(
        self, outputs: Sequence[Node], device: Device, target: Target, options: CompileOptions
    ) -> None:
        self._device = device
        self._options = options
        self.plan = plan_for(tuple(dict.fromkeys(outputs)), device, target, options)
        self.size_bytes = self.plan.planned_bytes + sum(map(size_bytes, self.plan.leaves))
        check_memory(device, self.size_bytes, options)
        self._resident = Resident(device, self.plan, options, ())
        self._leaves = {leaf: device.alloc(size_bytes(leaf)) for leaf in self.plan.leaves}
        self._steps = (*self.plan.once, *self.plan.steps)
        binding: dict[BufferKey, Buffer] = {leaf: self._leaves[leaf] for leaf in self._leaves}
        self._launches = self._resident.bind(self._steps, binding)

    def run(self, values: Mapping[Node, Array]) -> dict[Node, Array]:
        """Values of the outputs, canonical, given canonical values of ``plan.leaves``."""
        self.compute(values)
        return {node: self._fetch(node, values) for node in self.plan.outputs}

    def compute(self, values: Mapping[Node, Array]) -> None:
        """Queue the computation; :meth:`buffer` says where the outputs will lie."""
        if self._options.poison:
            self._resident.poison()
        for leaf, buffer in self._leaves.items():
            if leaf.elements:
                self._device.upload(buffer, values[leaf])
        self._resident.run(self._steps, self._launches)

    def buffer(self, node: Node) -> Buffer:
        """Device memory of an output that is no leaf; the next computation overwrites it."""
        return self._resident.buffer(node)

    def _fetch(self, node: Node, values: Mapping[Node, Array]) -> Array:
        if node in self._leaves:
            return values[node].copy()
        array = np.empty(node.shape, node.dtype.numpy)
        if array.size:
            self._device.download(self._resident.buffer(node), array)
        return array

    def release(self) -> None:
        """Overwrite and free the device memory."""
        self._launches = []
        self._resident.release()
        self._device.wipe(self._leaves.values())
        for buffer in self._leaves.values():
            buffer.release()


def leaf_value(node: Node, leaves: Mapping[Node, Array]) -> Array:
    """The canonical value given for a leaf; raises ``INPUT_MISSING`` or ``INPUT_SHAPE``."""
    if node not in leaves:
        raise EngineError(f"no value was given for {node!r}", code="INPUT_MISSING")
    value = np.asarray(leaves[node])
    if value.shape != node.shape or value.dtype != node.dtype.numpy:
        raise EngineError(
            f"{node!r} was given {value.dtype}{list(value.shape)}", code="INPUT_SHAPE"
        )
    return dtypes.canonical(value).reshape(node.shape)
