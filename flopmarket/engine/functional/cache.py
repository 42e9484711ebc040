"""Keys and values that an attention has seen: a cache as tensors of a fixed size, and pure steps.

The tensors are state of a program: a step appends its keys and values and returns the next cache.
Attention over the cache has the bits of attention over the whole sequence at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.engine import compose, graph
from flopmarket.engine.compose import like
from flopmarket.engine.creation import zeros
from flopmarket.engine.dtypes import DType, bool_, float32, int32
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional.attention import scaled_dot_product_attention
from flopmarket.engine.graph import Node
from flopmarket.engine.scattering import gather
from flopmarket.engine.tensor import Tensor, common_device


@dataclass(frozen=True, slots=True)
class KeyValueCache:
    """``keys`` and ``values`` [B, H, max_length, D]; ``position`` int32 [B]: slots in use."""

    keys: Tensor
    values: Tensor
    position: Tensor

    @staticmethod
    def empty(
        batch: int,
        heads: int,
        max_length: int,
        head_dim: int,
        value_dim: int | None = None,
        dtype: DType = float32,
    ) -> KeyValueCache:
        """A cache of zeros with nothing in use."""
        return KeyValueCache(
            zeros(batch, heads, max_length, head_dim, dtype=dtype),
            zeros(batch, heads, max_length, value_dim or head_dim, dtype=dtype),
            zeros(batch, dtype=int32),
        )

    def append(self, keys: Tensor, values: Tensor, count: Tensor | None = None) -> KeyValueCache:
        """With ``keys`` and ``values`` [B, H, T, D] in the next slots.

        ``count``, integers [B], says how many of the T each sequence really has (all, if None).
        What does not fit is dropped; the position never passes max_length.
        """
        steps = keys.shape[-2]
        limit = self.keys.shape[-2]
        added = steps if count is None else count.to(int32)
        position = (self.position + added).clamp(max=limit)
        return KeyValueCache(
            write_slots(self.keys, keys, self.position),
            write_slots(self.values, values, self.position),
            position,
        )

    def attend(
        self, query: Tensor, *, count: Tensor | None = None, scale: float | None = None
    ) -> Tensor:
        """Causal attention of the newest positions, query [B, H', T, D] -> [B, H', T, Dv].

        H' is a multiple of the cache's heads. Call it after :meth:`append` of the same T and
        ``count``; what the queries beyond a sequence's count give is without meaning.
        """
        batch, _, steps, _ = query.shape
        added = steps if count is None else count.to(int32)
        ramp = Tensor(graph.iota(1, (batch, steps))) + 1
        lengths = ((self.position - added).unsqueeze(-1) + ramp).unsqueeze(1)
        return scaled_dot_product_attention(
            query, self.keys, self.values, scale=scale, enable_gqa=True, key_length=lengths
        )


def write_slots(
    slots: Tensor, rows: Tensor, position: Tensor, *, circular: bool = False, dim: int = -2
) -> Tensor:
    """``slots`` [B, .., max_length, ..] with ``rows`` [B, .., T, ..] from ``position`` [B] on.

    ``dim`` is the axis of slots. Slots past the end are dropped, or with ``circular`` continue at
    the first one.
    """
    axis = compose.axis_of(dim, slots.ndim)
    device = common_device(slots, rows, position)
    if rows.ndim != slots.ndim or any(
        a != b for at, (a, b) in enumerate(zip(rows.shape, slots.shape, strict=True)) if at != axis
    ):
        raise EngineError(
            f"rows {list(rows.shape)} for slots {list(slots.shape)}", code="SHAPE_MISMATCH"
        )
    if not rows.numel() or not slots.numel():
        return slots
    start = graph.reshape(
        graph.cast(position.node, int32), (slots.shape[0], *(1,) * (slots.ndim - 1))
    )
    place = graph.iota(axis, slots.shape)
    offset = compose.subtract(place, graph.expand(start, slots.shape))
    if circular:
        below = graph.cmp("lt", offset, like(0, offset))
        offset = graph.where(below, graph.add(offset, like(slots.shape[axis], offset)), offset)
    steps = rows.shape[axis]
    fresh = graph.bit(
        "and",
        graph.cmp("lt", like(-1, offset), offset),
        graph.cmp("lt", offset, like(steps, offset)),
    )
    new = graph.cast(rows.node, slots.dtype)
    taken = graph.expand(new, slots.shape) if steps == 1 else _taken(new, axis, offset, fresh)
    return Tensor(graph.where(fresh, taken, slots.node), device=device)


def _taken(rows: Node, axis: int, offset: Node, fresh: Node) -> Node:
    """rows[.., offset, ..] where ``fresh``; anything elsewhere."""
    assert fresh.dtype is bool_
    return gather(rows, axis, graph.where(fresh, offset, like(0, offset)))
