"""Evaluation of graphs on devices outside sessions: what ``Tensor.numpy()`` and models call.

:func:`realise` is for one shot. Plans and their device memory are kept, keyed by the *structure* of
the graph (the names of realised tensors do not count), because a training loop written eagerly asks
for the same graph with other leaves every time. :func:`held` is for a graph that is evaluated again
and again with the same weights: they stay on the device. Both stores are bounded and belong to one
:class:`Realiser`; the functions use one per process.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import OrderedDict, deque
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
from flopmarket.engine.runtime.prepared import Prepared
from flopmarket.engine.runtime.resident import CompileOptions

Array = np.ndarray[Any, Any]

REFERENCE = "reference"
"""The device name of the bit-exact interpreter."""


class Held:
    """A graph whose fixed leaves stay on the device; made by :func:`held`.

    What it holds there is made by the first :meth:`run`, may be dropped when others need the memory
    (the next run makes it again), and is given back when the object is collected.
    """

    __slots__ = ("__weakref__", "_realiser", "device", "fixed", "number", "outputs")

    def __init__(
        self,
        realiser: Realiser,
        outputs: Sequence[Node],
        fixed: Mapping[Node, Array],
        device: str | None,
        number: int,
    ) -> None:
        self._realiser = realiser
        self.outputs = canonicalise(outputs)
        below = topological(self.outputs)
        self.fixed = {node: fixed[node] for node in below if node.op is Op.INPUT and node in fixed}
        self.device = device
        self.number = number

    def run(self, given: Mapping[Node, Array]) -> list[Array]:
        """Values of the outputs, canonical, given the values of the leaves that are not fixed.

        Raises EngineError (INPUT_MISSING, INPUT_SHAPE, DEVICE_...).
        """
        return self._realiser.run_held(self, given)


class Realiser:
    """Evaluates graphs; keeps devices open and the latest plans ready. Calls take turns."""

    def __init__(
        self,
        options: CompileOptions | None = None,
        *,
        max_plans: int = limits.MAX_CACHED_PLANS,
        max_kept_bytes: int = limits.MAX_CACHED_PLAN_BYTES,
        max_held_bytes: int = limits.MAX_HELD_BYTES,
    ) -> None:
        self._options = CompileOptions() if options is None else options
        self._max_plans = max_plans
        self._max_kept_bytes = max_kept_bytes
        self._max_held_bytes = max_held_bytes
        self._lock = threading.Lock()
        self._devices: dict[str | None, Device | None] = {}
        self._targets: dict[Device, Target] = {}
        self._ready: OrderedDict[Hashable, Prepared] = OrderedDict()
        self._held: OrderedDict[int, Prepared] = OrderedDict()
        self._collected: deque[int] = deque()
        self._numbers = itertools.count()

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

    def held(
        self, outputs: Sequence[Node], fixed: Mapping[Node, Array], device: str | None = None
    ) -> Held:
        """A graph to evaluate many times. See :func:`held`."""
        number = next(self._numbers)
        handle = Held(self, outputs, fixed, device, number)
        weakref.finalize(handle, self._give_back, number).atexit = False
        return handle

    def run_held(self, handle: Held, given: Mapping[Node, Array]) -> list[Array]:
        """What :meth:`Held.run` gives."""
        with self._lock:
            opened_device = self._device(handle.device)
            if opened_device is None:
                return reference.evaluate(handle.outputs, {**handle.fixed, **given})
            self._free_collected()
            ready = self._held.get(handle.number)
            if ready is None:
                ready = self._prepare(handle.outputs, opened_device, handle.fixed)
                self._held[handle.number] = ready
                _trim(self._held, limits.MAX_CACHED_PLANS, self._max_held_bytes)
            self._held.move_to_end(handle.number)
            found = ready.run({leaf: reference.leaf_value(leaf, given) for leaf in ready.given})
        return _in_order(handle.outputs, found)

    def _give_back(self, number: int) -> None:
        """A handle is gone. Collection may happen inside a call, which holds the lock then."""
        self._collected.append(number)
        if self._lock.acquire(blocking=False):
            try:
                self._free_collected()
            finally:
                self._lock.release()

    def _free_collected(self) -> None:
        while self._collected:
            ready = self._held.pop(self._collected.popleft(), None)
            if ready is not None:
                ready.release()

    def close(self) -> None:
        """Overwrite and release everything."""
        with self._lock:
            self._ready.clear()
            self._held.clear()
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
            _trim(self._ready, self._max_plans, self._max_kept_bytes)
        self._ready.move_to_end(place)
        # The graph that the plan was made from has other leaves, in the same order.
        theirs = _structure(ready.plan.outputs)[1]
        given = {
            leaf: reference.leaf_value(mine, leaves)
            for leaf, mine in zip(theirs, order, strict=True)
            if leaf in ready.plan.leaves
        }
        found = ready.run(given)
        mine = dict(zip(wanted, ready.plan.outputs, strict=True))
        return _in_order(nodes, {node: found[theirs_] for node, theirs_ in mine.items()})

    def _prepare(
        self,
        nodes: Sequence[Node],
        device: Device,
        fixed: Mapping[Node, Array] | None = None,
    ) -> Prepared:
        target = self._targets.get(device)
        if target is None:
            target = self._targets[device] = open_target(device, numerics=self._options.numerics)
        try:
            return Prepared(nodes, device, target, self._options, fixed)
        except EngineError as error:
            if error.code != "DEVICE_MEMORY" or not (self._ready or self._held):
                raise
            # What is kept for speed must not be in the way.
            _trim(self._ready, 0, 0)
            _trim(self._held, 0, 0)
            return Prepared(nodes, device, target, self._options, fixed)


def _in_order(nodes: Sequence[Node], found: Mapping[Node, Array]) -> list[Array]:
    """An array for each of ``nodes``, none twice."""
    first = {node: at for at, node in reversed(list(enumerate(nodes)))}
    return [found[n] if first[n] == at else found[n].copy() for at, n in enumerate(nodes)]


def _trim(kept: OrderedDict[Any, Prepared], most: int, most_bytes: int) -> None:
    """Release the least recently used ones beyond the limits; the latest stays, unless 0 may."""
    while len(kept) > min(1, most) and (
        len(kept) > most or sum(ready.size_bytes for ready in kept.values()) > most_bytes
    ):
        kept.popitem(last=False)[1].release()


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


def held(outputs: Sequence[Node], fixed: Mapping[Node, Array], device: str | None = None) -> Held:
    """``outputs`` made ready for many evaluations, the leaves in ``fixed`` having these values.

    The arrays must not change while the handle lives. ``device`` as for :func:`realise`.
    """
    return _process.held(outputs, fixed, device)
