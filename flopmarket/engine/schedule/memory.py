"""When buffers live: which launches run once, and which temporaries may share memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence

from flopmarket.engine.codegen.emit import BufferKey
from flopmarket.engine.codegen.repeat import AnyCall


def size_bytes(key: BufferKey) -> int:
    """Bytes of a buffer; at least 1, since OpenCL has no empty ones."""
    return max(1, key.elements * key.dtype.size_bytes)


def once_flags(
    calls: Sequence[AnyCall], outputs: Collection[BufferKey], is_fixed: Callable[[BufferKey], bool]
) -> list[bool]:
    """Which of ``calls`` read only what ``is_fixed`` or what others of them wrote.

    A buffer with several writers, or one of ``outputs``, is written anew every time.
    """
    writers: dict[BufferKey, int] = {}
    for call in calls:
        for at in call.written:
            writers[call.arguments[at]] = writers.get(call.arguments[at], 0) + 1
    still_written: set[BufferKey] = set()
    flags: list[bool] = []
    for call in calls:
        written = {call.arguments[at] for at in call.written}
        still = all(
            key in still_written or (key not in writers and is_fixed(key))
            for key in call.arguments
            if key not in written
        ) and not any(key in outputs or writers[key] > 1 for key in written)
        flags.append(still)
        if still:
            still_written |= written
    return flags


MAX_SLABS_TRIED = 128
"""Slabs that are looked at for one temporary, so that arranging stays linear in their number."""


def arrange(
    calls: Sequence[AnyCall], fixed: Collection[BufferKey]
) -> tuple[dict[BufferKey, int], tuple[int, ...]]:
    """A slab for every temporary, none holding two at a time; and the slabs' sizes in bytes.

    A temporary lives from its first to its last launch.
    """
    spans: dict[BufferKey, list[int]] = {}
    for at, call in enumerate(calls):
        for key in call.arguments:
            if key not in fixed:
                spans.setdefault(key, [at, at])[1] = at
    slabs, sizes = share([(size_bytes(key), first, last) for key, (first, last) in spans.items()])
    return dict(zip(spans, slabs, strict=True)), sizes


def share(spans: Sequence[tuple[int, int, int]]) -> tuple[list[int], tuple[int, ...]]:
    """The slab of every (bytes, first position, last position), and the slabs' sizes in bytes.

    Going from the largest to the smallest, each takes the smallest slab that is free all that time.
    A slab is an allocation of its own and not a part of one: sub-buffers crash NVIDIA's driver when
    they are released, and no slab meets the limit on one allocation before a tensor does.
    """
    taken: list[list[tuple[int, int]]] = []
    sizes: list[int] = []
    places = [0] * len(spans)
    for number in sorted(range(len(spans)), key=lambda n: (-spans[n][0], spans[n][1])):
        size, first, last = spans[number]
        # Sizes only fall, so the latest slab that is free is the smallest one.
        for slab in range(len(taken) - 1, max(-1, len(taken) - 1 - MAX_SLABS_TRIED), -1):
            if _occupy(taken[slab], first, last):
                break
        else:
            slab = len(taken)
            taken.append([(first, last)])
            sizes.append(size)
        places[number] = slab
    return places, tuple(sizes)


def _occupy(taken: list[tuple[int, int]], first: int, last: int) -> bool:
    """Enter a span among those that hold a slab, in order of time, if it is free that long."""
    at = bisect_left(taken, (first, last))
    if (at and taken[at - 1][1] >= first) or (at < len(taken) and taken[at][0] <= last):
        return False
    taken.insert(at, (first, last))
    return True
