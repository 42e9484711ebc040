"""The plan of a graph: kernels, launch order, and where every buffer lies. Plain data, no device.

``make_plan`` runs the whole compiler: fuse, lower, gather equal kernels into one source text, find
the launches that depend on frozen tensors alone (they run once, at load), and let the temporaries
of the others share allocations by lifetime. :mod:`flopmarket.engine.runtime.replay` turns a plan
into buffers and bound launches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flopmarket.engine import limits
from flopmarket.engine.codegen import nest as nests
from flopmarket.engine.codegen.emit import BufferKey
from flopmarket.engine.codegen.lower import Lowering
from flopmarket.engine.codegen.nest import Call
from flopmarket.engine.codegen.opencl import Target, prelude
from flopmarket.engine.codegen.templates import gemm
from flopmarket.engine.codegen.templates.gemm import GemmTile
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.schedule.fuse import fuse, is_leaf


@dataclass(frozen=True, slots=True)
class Step:
    """One launch of the tape: the kernel called ``name`` in the plan's source, as ``call`` says."""

    name: str
    call: Call


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a device needs to compute ``outputs``.

    ``once`` runs after loading, ``steps`` every time. ``leaves`` are the INPUT nodes that are read,
    ``constants`` the literals that live in memory. ``kept`` are buffers of their own beside them:
    results of ``once`` and computed outputs. ``places`` gives the slab of each temporary.
    """

    outputs: tuple[Node, ...]
    source: str
    once: tuple[Step, ...]
    steps: tuple[Step, ...]
    leaves: tuple[Node, ...]
    constants: tuple[Node, ...]
    kept: tuple[BufferKey, ...]
    places: dict[BufferKey, int]
    slab_bytes: tuple[int, ...]

    @property
    def planned_bytes(self) -> int:
        """Device memory for literals, kept buffers and slabs; leaves come on top."""
        return sum(self.slab_bytes) + sum(size_bytes(key) for key in (*self.constants, *self.kept))


def size_bytes(key: BufferKey) -> int:
    """Bytes of a buffer; at least 1, since OpenCL has no empty ones."""
    return max(1, key.elements * key.dtype.size_bytes)


def make_plan(
    outputs: Sequence[Node],
    target: Target,
    *,
    fusion: bool = True,
    tile: GemmTile | None = None,
) -> Plan:
    """Compile canonical ``outputs`` for ``target``. Depends on nothing but the arguments.

    Raises EngineError: ``PLAN_TOO_LARGE`` past a limit, ``DEVICE_NO_FP64`` where exact division
    needs float64 that the target lacks.
    """
    schedule = fuse(outputs, fusion=fusion)
    calls = Lowering(schedule, target, tile).run()
    if len(calls) > limits.MAX_PLAN_LAUNCHES:
        raise EngineError(
            f"{len(calls)} launches a step, at most {limits.MAX_PLAN_LAUNCHES}",
            code="PLAN_TOO_LARGE",
        )
    for call in calls:
        if len(call.arguments) > limits.MAX_KERNEL_BUFFERS:
            raise EngineError(
                f"a {call.family} kernel wants {len(call.arguments)} buffers, "
                f"at most {limits.MAX_KERNEL_BUFFERS}",
                code="PLAN_TOO_LARGE",
            )
    source, steps = _name_kernels(calls, target)
    once, steps = _split_once(steps, frozenset(outputs))
    used = dict.fromkeys(key for step in (*once, *steps) for key in step.call.arguments)
    nodes = [key for key in (*used, *outputs) if isinstance(key, Node) and is_leaf(key)]
    leaves = tuple(dict.fromkeys(key for key in nodes if key.op is Op.INPUT))
    constants = tuple(dict.fromkeys(key for key in nodes if key.op is Op.CONST))
    early = dict.fromkeys(
        step.call.arguments[at] for step in once for at in sorted(step.call.written)
    )
    computed = [node for node in dict.fromkeys(outputs) if not is_leaf(node)]
    kept = tuple(dict.fromkeys([*early, *computed]))
    places, slabs = _arrange(steps, {*leaves, *constants, *kept})
    return Plan(tuple(outputs), source, once, steps, leaves, constants, kept, places, slabs)


def _name_kernels(calls: Sequence[Call], target: Target) -> tuple[str, tuple[Step, ...]]:
    """Equal texts become one kernel; names count first appearances."""
    names: dict[str, str] = {}
    steps: list[Step] = []
    parts = [prelude(target)]
    if any(call.family == "gemm" for call in calls):
        parts.append(_gemm_helpers(calls, target))
    for call in calls:
        name = names.get(call.text)
        if name is None:
            name = names[call.text] = f"k{len(names)}_{call.family}"
            parts.append(call.text.replace(nests.NAME, name))
        steps.append(Step(name, call))
    return "".join(parts), tuple(steps)


def _gemm_helpers(calls: Sequence[Call], target: Target) -> str:
    text = "".join(call.text for call in calls if call.family == "gemm")
    helpers = []
    for width in (2, 4, 8, 16):
        if f"fx1_fma_float{width}(" in text:
            spec = gemm.GemmSpec(
                M=1,
                N=1,
                K=0,
                tile=GemmTile(1, 1, width),
                store=lambda b, m, n, value: "",
                parameters="",
                contract_helper=target.contract_helper,
            )
            helpers.append(gemm.render_helper(spec))
    return "".join(helpers)


def _split_once(
    steps: Sequence[Step], outputs: frozenset[BufferKey]
) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """Launches that read only frozen tensors, literals and each other's results run once."""
    writers: dict[BufferKey, int] = {}
    for step in steps:
        for at in step.call.written:
            writers[step.call.arguments[at]] = writers.get(step.call.arguments[at], 0) + 1
    changing: set[BufferKey] = set()
    once_flags: list[bool] = []
    for step in steps:
        call = step.call
        written = {call.arguments[at] for at in call.written}
        still = all(
            _is_fixed(key, changing) for key in call.arguments if key not in written
        ) and not any(key in outputs or writers[key] > 1 for key in written)
        once_flags.append(still)
        if not still:
            changing.update(written)
    once = tuple(s for s, flag in zip(steps, once_flags, strict=True) if flag)
    return once, tuple(s for s, flag in zip(steps, once_flags, strict=True) if not flag)


def _is_fixed(key: BufferKey, changing: set[BufferKey]) -> bool:
    if isinstance(key, Node) and key.op is Op.INPUT:
        return bool(key.arg[0] == "frozen")
    return key not in changing


# ---------------------------------------------------------------- memory


def _arrange(
    steps: Sequence[Step], fixed: set[Any]
) -> tuple[dict[BufferKey, int], tuple[int, ...]]:
    """A slab for every temporary, none holding two at a time; and the slabs' sizes in bytes.

    A temporary lives from its first to its last launch. Going from the largest to the smallest,
    each takes the smallest slab that is free all that time. A slab is an allocation of its own and
    not a part of one: sub-buffers crash NVIDIA's driver when they are released, and no slab meets
    the limit on one allocation before a tensor does.
    """
    spans: dict[BufferKey, list[int]] = {}
    for at, step in enumerate(steps):
        for key in step.call.arguments:
            if key not in fixed:
                spans.setdefault(key, [at, at])[1] = at
    taken: list[list[tuple[int, int]]] = []
    sizes: list[int] = []
    places: dict[BufferKey, int] = {}
    for key in sorted(spans, key=lambda k: (-size_bytes(k), spans[k][0])):
        first, last = spans[key]
        # Sizes only fall, so the latest slab that is free is the smallest one.
        for slab in reversed(range(len(taken))):
            if all(until < first or last < since for since, until in taken[slab]):
                break
        else:
            slab = len(taken)
            taken.append([])
            sizes.append(size_bytes(key))
        taken[slab].append((first, last))
        places[key] = slab
    return places, tuple(sizes)
