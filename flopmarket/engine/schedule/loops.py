"""Compiling a LOOP: the body gets a schedule of its own, and its buffers a place in those around.

``codegen/lower.py`` calls :func:`lower_loop` for a LOOP kernel and gets one call back, which holds
the calls of the body (``codegen/repeat.py``). What reads only shared values and literals, packed
weights above all, is computed before the first turn.
"""

from __future__ import annotations

from flopmarket.engine.codegen.emit import BufferKey
from flopmarket.engine.codegen.lower import Lowering
from flopmarket.engine.codegen.repeat import AnyCall, LoopCall
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.loop import group_of
from flopmarket.engine.schedule.frame import Frame, Place, next_key, slab_key, stacked_key
from flopmarket.engine.schedule.fuse import Kernel, fuse
from flopmarket.engine.schedule.memory import arrange, once_flags, size_bytes


def lower_loop(lowering: Lowering, kernel: Kernel) -> None:
    """Append the call of a LOOP kernel. A loop without turns is none: its carries are there."""
    node = kernel.core
    assert node is not None
    place = lowering.frame.loops[group_of(node)]
    if place.group.count == 0:
        return
    frame = Frame.of_body(place)
    schedule = fuse(frame.outputs, fusion=lowering.fusion, frame=frame)
    inner = Lowering(schedule, lowering.target, frame, lowering.given_tile, fusion=lowering.fusion)
    calls = inner.run()
    delivered = {frame.sinks[node].key for node in frame.outputs}
    flags = once_flags(calls, delivered, _is_same_in_all_turns)
    once = tuple(call for call, flag in zip(calls, flags, strict=True) if flag)
    every = tuple(call for call, flag in zip(calls, flags, strict=True) if not flag)
    lowering.calls.append(_call(lowering, place, once, every))


def _is_same_in_all_turns(key: BufferKey) -> bool:
    return isinstance(key, Node) and (key.op is not Op.INPUT or key.arg[0] == "shared")


def _call(
    lowering: Lowering, place: Place, once: tuple[AnyCall, ...], every: tuple[AnyCall, ...]
) -> LoopCall:
    even, odd = _borders(place)
    early = dict.fromkeys(call.arguments[at] for call in once for at in sorted(call.written))
    for key in early:
        even[key] = odd[key] = slab_key(lowering.temp_name(), size_bytes(key))
    used = dict.fromkeys(key for call in (*once, *every) for key in call.arguments)
    for key in used:
        if isinstance(key, Node) and key.op is Op.CONST:
            even[key] = odd[key] = key
    places, sizes = arrange(every, even)
    slabs = [slab_key(lowering.temp_name(), size) for size in sizes]
    for key, slab in places.items():
        even[key] = odd[key] = slabs[slab]
    even, odd = ({key: names[key] for key in used} for names in (even, odd))
    arguments = tuple(dict.fromkeys((*even.values(), *odd.values())))
    written = {
        names[call.arguments[at]]
        for call in (*once, *every)
        for at in call.written
        for names in (even, odd)
    }
    return LoopCall(
        place.group.count,
        place.group.reverse,
        once,
        every,
        even,
        odd,
        arguments,
        frozenset(at for at, key in enumerate(arguments) if key in written),
    )


def _borders(place: Place) -> tuple[dict[BufferKey, BufferKey], dict[BufferKey, BufferKey]]:
    """The buffers around the body by the names it has for them, in even and in odd turns."""
    body = place.group.body
    even: dict[BufferKey, BufferKey] = {}
    first = {"carry": 0, "item": body.carries, "shared": body.carries + body.items}
    for (kind, at), leaf in body.placeholders.items():
        even[leaf] = place.keys[first[kind] + at]
    for at, node in place.results.items():
        if at >= body.carries:
            even[stacked_key(at, body.results[at])] = node
    odd = dict(even)
    for at, other in enumerate(place.others):
        value, key = body.results[at], place.keys[at]
        even[next_key(at, value)], odd[next_key(at, value)] = other, key
        if ("carry", at) in body.placeholders:
            odd[body.placeholders["carry", at]] = other
    return even, odd
