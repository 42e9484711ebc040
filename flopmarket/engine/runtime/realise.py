"""One-shot evaluation of a graph on a device: what ``Tensor.numpy()`` calls.

Plans and their device memory are kept in memory, keyed by the *structure* of the graph (the names
of realised tensors do not count), because a training loop written eagerly asks for the same graph
with other leaves every time. The store is bounded and belongs to one :class:`Realiser`; the
function :func:`realise` uses one per process.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from flopmarket.engine import limits, reference
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node, Op, topological
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.runtime import devices
from flopmarket.engine.runtime.open import open_target, opened
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.runtime.prepared import Prepared, leaf_value
from flopmarket.engine.runtime.replay import CompileOptions

Array = np.ndarray[Any, Any]

REFERENCE = "reference"
"""The device name of the bit-exact interpreter."""


class Realiser:
    """Evaluates graphs; keeps devices open and the latest plans ready. Calls take turns."""

    def __init__(
        self,
        options: CompileOptions | None = None,
        *,
        max_plans: int = limits.MAX_CACHED_PLANS,
        max_kept_bytes: int = limits.MAX_CACHED_PLAN_BYTES,
    ) -> None:
        self._options = CompileOptions() if options is None else options
        self._max_plans = max_plans
        self._max_kept_bytes = max_kept_bytes
        self._lock = threading.Lock()
        self._devices: dict[str | None, Device | None] = {}
        self._targets: dict[Device, Target] = {}
        self._ready: OrderedDict[Hashable, Prepared] = OrderedDict()

    def realise(
        self, outputs: Sequence[Node], leaves: Mapping[Node, Array], device: str | None = None
    ) -> list[Array]:
        """Values of ``outputs``, canonical. See :func:`realise`."""
        nodes = canonicalise(outputs)
        with self._lock:
            opened_device = self._device(device)
            if opened_device is None:
                return reference.evaluate(nodes, leaves)
            return self._run(nodes, leaves, opened_device)

    def close(self) -> None:
        """Overwrite and release everything."""
        with self._lock:
            self._ready.clear()
            for device in set(self._devices.values()):
                if device is not None:
                    device.close()
            self._devices.clear()
            self._targets.clear()

    def _device(self, spec: str | None) -> Device | None:
        if spec == REFERENCE:
            return None
        if spec not in self._devices:
            try:
                info = devices.find(spec)
            except EngineError as error:
                if spec is None and error.code == "DEVICE_NONE":
                    self._devices[spec] = None
                    return None
                raise
            twin = (d for d in self._devices.values() if d is not None and d.info == info)
            found = next(twin, None)
            self._devices[spec] = opened(info, self._options) if found is None else found
        return self._devices[spec]

    def _run(
        self, nodes: tuple[Node, ...], leaves: Mapping[Node, Array], device: Device
    ) -> list[Array]:
        wanted = tuple(dict.fromkeys(nodes))
        key, order = _structure(wanted)
        place = (device.info.device_id, key)
        ready = self._ready.get(place)
        if ready is None:
            ready = self._ready[place] = self._prepare(wanted, device)
            self._trim()
        self._ready.move_to_end(place)
        # The graph that the plan was made from has other leaves, in the same order.
        theirs = _structure(ready.plan.outputs)[1]
        given = {
            leaf: leaf_value(mine, leaves)
            for leaf, mine in zip(theirs, order, strict=True)
            if leaf in ready.plan.leaves
        }
        found = ready.run(given)
        values = {
            mine: found[theirs_] for mine, theirs_ in zip(wanted, ready.plan.outputs, strict=True)
        }
        first = {node: nodes.index(node) for node in wanted}
        return [values[n] if first[n] == at else values[n].copy() for at, n in enumerate(nodes)]

    def _prepare(self, nodes: tuple[Node, ...], device: Device) -> Prepared:
        target = self._targets.get(device)
        if target is None:
            target = self._targets[device] = open_target(device)
        try:
            return Prepared(nodes, device, target, self._options)
        except EngineError as error:
            if error.code != "DEVICE_MEMORY" or not self._ready:
                raise
            self._drop_all()  # what is kept for speed must not be in the way
            return Prepared(nodes, device, target, self._options)

    def _trim(self) -> None:
        def kept() -> int:
            return sum(ready.size_bytes for ready in self._ready.values())

        while len(self._ready) > 1 and (
            len(self._ready) > self._max_plans or kept() > self._max_kept_bytes
        ):
            self._ready.popitem(last=False)[1].release()

    def _drop_all(self) -> None:
        while self._ready:
            self._ready.popitem(last=False)[1].release()


def _structure(outputs: Sequence[Node]) -> tuple[Hashable, list[Node]]:
    """A key that equal graphs over other leaves share, and the leaves in the order of the walk."""
    numbers: dict[Node, int] = {}
    leaves: list[Node] = []
    rows: list[Hashable] = []
    for node in topological(outputs):
        numbers[node] = len(numbers)
        arg = node.arg
        if node.op is Op.INPUT:
            arg = node.arg[0] if node.arg[0] == "frozen" else "given"
            leaves.append(node)
        rows.append(
            (int(node.op), tuple(numbers[s] for s in node.src), arg, node.dtype, node.shape)
        )
    return (tuple(rows), tuple(numbers[node] for node in outputs)), leaves


_process = Realiser()


def realise(
    outputs: Sequence[Node], leaves: Mapping[Node, Array], device: str | None = None
) -> list[Array]:
    """Values of ``outputs``, canonical, given one array per INPUT node below them.

    ``device`` is what :func:`devices.find` takes, or "reference"; None is the first OpenCL device,
    or the reference where there is none. Raises EngineError (INPUT_MISSING, INPUT_SHAPE,
    DEVICE_...).
    """
    return _process.realise(outputs, leaves, device)
