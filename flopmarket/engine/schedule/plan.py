"""The plan of a graph: kernels, launch order, and where every buffer lies. Plain data, no device.

``make_plan`` runs the whole compiler: fuse, lower, gather equal kernels into one source text, find
the launches that depend on frozen tensors alone (they run once, at load), and let the temporaries
of the others share allocations by lifetime. :mod:`flopmarket.engine.runtime.resident` turns a plan
into buffers and bound launches.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from flopmarket.engine import limits
from flopmarket.engine.codegen import matrix, repeat
from flopmarket.engine.codegen import nest as nests
from flopmarket.engine.codegen.emit import BufferKey
from flopmarket.engine.codegen.lower import Lowering
from flopmarket.engine.codegen.nest import Call
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.codegen.prelude import prelude
from flopmarket.engine.codegen.repeat import AnyCall, LoopCall, executed, plain_calls
from flopmarket.engine.codegen.templates import gemm
from flopmarket.engine.codegen.templates.gemm import GemmTile
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.numerics import Numerics
from flopmarket.engine.schedule.frame import Frame
from flopmarket.engine.schedule.fuse import fuse, is_leaf
from flopmarket.engine.schedule.memory import arrange, once_flags
from flopmarket.engine.schedule.memory import size_bytes as size_bytes


@dataclass(frozen=True, slots=True)
class Step:
    """One launch of the tape: the kernel called ``name`` in the plan's source, as ``call`` says."""

    name: str
    call: Call


@dataclass(frozen=True, slots=True)
class LoopStep:
    """A loop on the tape: ``once`` before its first turn, ``steps`` in every turn."""

    name: str
    call: LoopCall
    once: tuple[AnyStep, ...]
    steps: tuple[AnyStep, ...]


AnyStep = Step | LoopStep


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a device needs to compute ``outputs``.

    ``once`` runs after loading, ``steps`` every time. ``leaves`` are the INPUT nodes that are read,
    ``constants`` the literals that live in memory. ``kept`` are buffers of their own beside them:
    results of ``once`` and computed outputs. ``places`` gives the slab of each temporary.
    ``numerics`` is the law that ``source`` was written for.
    """

    outputs: tuple[Node, ...]
    source: str
    once: tuple[AnyStep, ...]
    steps: tuple[AnyStep, ...]
    leaves: tuple[Node, ...]
    constants: tuple[Node, ...]
    kept: tuple[BufferKey, ...]
    places: dict[BufferKey, int]
    slab_bytes: tuple[int, ...]
    numerics: Numerics

    @property
    def planned_bytes(self) -> int:
        """Device memory for literals, kept buffers and slabs; leaves come on top."""
        return sum(self.slab_bytes) + sum(size_bytes(key) for key in (*self.constants, *self.kept))


def make_plan(
    outputs: Sequence[Node],
    target: Target,
    *,
    fusion: bool = True,
    tile: GemmTile | None = None,
    fixed: Collection[Node] = (),
) -> Plan:
    """Compile canonical ``outputs`` for ``target``. Depends on nothing but the arguments.

    ``fixed`` are leaves whose values never change, beside those that are frozen tensors.
    Raises EngineError ``PLAN_TOO_LARGE`` past a limit.
    """
    frame = Frame.of_step(outputs)
    schedule = fuse(outputs, fusion=fusion, frame=frame)
    calls = Lowering(schedule, target, frame, tile, fusion=fusion).run()
    kernels = plain_calls(calls)
    for count, limit in (
        (len(kernels), limits.MAX_PLAN_LAUNCHES),
        (executed(calls), limits.MAX_STEP_LAUNCHES),
    ):
        if count > limit:
            raise EngineError(f"{count} launches a step, at most {limit}", code="PLAN_TOO_LARGE")
    for call in kernels:
        if len(call.arguments) > limits.MAX_KERNEL_BUFFERS:
            raise EngineError(
                f"a {call.family} kernel wants {len(call.arguments)} buffers, "
                f"at most {limits.MAX_KERNEL_BUFFERS}",
                code="PLAN_TOO_LARGE",
            )
    source, steps = _name_kernels(calls, target)
    flags = once_flags(calls, frozenset(outputs), lambda key: key in fixed or _is_frozen(key))
    once = tuple(step for step, flag in zip(steps, flags, strict=True) if flag)
    steps = tuple(step for step, flag in zip(steps, flags, strict=True) if not flag)
    used = dict.fromkeys(key for step in (*once, *steps) for key in step.call.arguments)
    nodes = [key for key in (*used, *outputs) if isinstance(key, Node) and is_leaf(key)]
    leaves = tuple(dict.fromkeys(key for key in nodes if key.op is Op.INPUT))
    constants = tuple(dict.fromkeys(key for key in nodes if key.op is Op.CONST))
    early = dict.fromkeys(
        step.call.arguments[at] for step in once for at in sorted(step.call.written)
    )
    computed = [node for node in dict.fromkeys(outputs) if not is_leaf(node)]
    kept = tuple(dict.fromkeys([*early, *computed]))
    places, slabs = arrange([step.call for step in steps], {*leaves, *constants, *kept})
    return Plan(
        tuple(outputs),
        source,
        once,
        steps,
        leaves,
        constants,
        kept,
        places,
        slabs,
        target.numerics,
    )


def _name_kernels(calls: Sequence[AnyCall], target: Target) -> tuple[str, tuple[AnyStep, ...]]:
    """Equal texts become one kernel; names count first appearances."""
    kernels = plain_calls(calls)
    texts = dict.fromkeys(repeat.with_offset(call.text) for call in kernels)
    parts = [prelude(target, "".join(texts))]
    if any(call.family.startswith("gemm") for call in kernels):
        parts.append(_gemm_helpers(kernels, target))
        parts.append(matrix.helpers("".join(texts)))
    names: dict[str, str] = {}
    for call in kernels:
        text = repeat.with_offset(call.text)
        if text not in names:
            names[text] = f"k{len(names)}_{call.family}"
            parts.append(text.replace(nests.NAME, names[text]))
    return "".join(parts), _named(calls, names)


def _named(calls: Sequence[AnyCall], names: Mapping[str, str]) -> tuple[AnyStep, ...]:
    return tuple(
        LoopStep(f"loop_{call.count}", call, _named(call.once, names), _named(call.calls, names))
        if isinstance(call, LoopCall)
        else Step(names[repeat.with_offset(call.text)], call)
        for call in calls
    )


def _gemm_helpers(calls: Sequence[Call], target: Target) -> str:
    text = "".join(call.text for call in calls if call.family.startswith("gemm"))
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


def _is_frozen(key: BufferKey) -> bool:
    """Whether a leaf is the same in every step."""
    return not (isinstance(key, Node) and key.op is Op.INPUT and key.arg[0] != "frozen")
