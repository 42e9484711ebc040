"""What a product becomes: decided once from weights and calibration, applied to every trace.

A :class:`Decision` holds the arrays that are shipped instead of the weights. ``lowered`` is the
rewriting: the float graph with every decided product in integers, its activation read from the
rewritten graph below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flopmarket.engine import compose, graph
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node
from flopmarket.engine.quantize import lower, weights
from flopmarket.engine.quantize.products import WEIGHT_LEFT, Key, Product, find
from flopmarket.engine.quantize.ranges import Coding
from flopmarket.engine.quantize.source import Source, Traced, realise

Array = np.ndarray[Any, Any]

CODES, FACTOR, CORRECTION = "codes", "factor", "correction"


@dataclass(frozen=True, slots=True)
class Decision:
    """A quantised product. ``members``: the names under which the model keeps its arrays.

    ``coding`` is the static code of the activation, None where every row has its own (and for
    tables). ``packed``: two codes a byte.
    """

    product: Product
    bits: int
    coding: Coding | None
    members: Mapping[str, str]

    def lowered(self, src: Sequence[Node], values: Mapping[str, Node]) -> Node:
        """The product over the rewritten sources ``src`` of its DOT, with members' ``values``."""
        node = self.product.node
        codes, factor = (values[self.members[kind]] for kind in (CODES, FACTOR))
        if self.product.is_table:
            return graph.cast(lower.table_rows(codes, factor, src[1]), node.dtype)
        if self.product.key.side == WEIGHT_LEFT:
            turned = compose.swap(src[1], 1, 2)
            return compose.swap(self._product(turned, values, None), 1, 2)
        return self._product(src[0], values, src[2] if len(src) == 3 else None)

    def _product(self, x: Node, values: Mapping[str, Node], valid: Node | None) -> Node:
        codes, factor = (values[self.members[kind]] for kind in (CODES, FACTOR))
        correction = values[self.members[CORRECTION]] if CORRECTION in self.members else None
        rows = None
        if self.coding is not None:
            activation = lower.coded(x, self.coding)
        else:
            activation, rows = lower.coded_rows(x)
        if self.bits == 4:
            product = lower.int4_product(activation, codes, factor, correction)
        else:
            product = lower.int8_product(activation, codes, factor, correction, valid)
        return product if rows is None else graph.mul(product, graph.expand(rows, product.shape))


def bits_of(product: Product, bits: int) -> int:
    """Tables and products with a valid length stay at 8 bits: neither has groups of terms."""
    return 8 if product.is_table or len(product.node.src) == 3 else bits


def decide(
    source: Source,
    product: Product,
    coding: Coding | None,
    bits: int,
    group: int,
    shared: dict[tuple[Node, int, int], str],
) -> tuple[Decision, dict[str, Array]]:
    """The decision on a product, and the arrays that come with it by member name.

    ``shared`` remembers the member that holds the codes of weights met before.
    """
    matrix = weight_matrix(source, product)
    arrays: dict[str, Array] = {}
    scale = np.float32(1.0 if coding is None else coding.scale)
    zero = 0 if coding is None else coding.zero_point
    bits = bits_of(product, bits)
    if bits == 4:
        grouped = weights.by_group(matrix, group, product.name)
        codes, factor, unpacked = grouped.packed, grouped.scales * scale, grouped.codes()
    else:
        rows = matrix.reshape(matrix.shape[0], -1) if product.is_table else matrix
        channels = weights.by_channel(rows, product.name)
        codes, factor, unpacked = channels.codes, channels.scales * scale, channels.codes
        codes = codes.reshape(matrix.shape)
    place = (product.key.weight, product.key.side, bits)
    if place not in shared:
        shared[place] = f"{product.name}:{CODES}"
        arrays[shared[place]] = codes
    members = {CODES: shared[place], FACTOR: f"{product.name}:{FACTOR}"}
    arrays[members[FACTOR]] = factor.astype(np.float32)
    if zero:
        members[CORRECTION] = f"{product.name}:{CORRECTION}"
        sums = unpacked.sum(axis=-1, dtype=np.int64) * -zero
        wide = np.abs(sums).max(initial=0) >= 2**31
        arrays[members[CORRECTION]] = sums if wide else sums.astype(np.int32)
    return Decision(product, bits, coding, members), arrays


def weight_matrix(source: Source, product: Product) -> Array:
    """The weights as float32 [W, N, K], K being summed over; a table as it is."""
    (array,) = realise([product.key.weight], source.known, "reference")
    if product.is_table:
        return array.astype(np.float32)
    matrix = array.reshape(-1, *array.shape[-2:]).astype(np.float32)
    return matrix if product.key.side == WEIGHT_LEFT else matrix.swapaxes(1, 2)


class Plan:
    """All decisions on one model, found again in any trace by their keys."""

    def __init__(self, source: Source, decisions: Sequence[Decision]) -> None:
        self._source = source
        self.decisions: dict[Key, Decision] = {d.product.key: d for d in decisions}

    def rewritten(self, traced: Traced, values: Mapping[str, Node]) -> dict[Node, Node]:
        """Every node of a trace by its quantised counterpart.

        ``values``: the members by name. Raises EngineError (QUANTIZE_GRAPH) where the graph has
        not the products that were calibrated.
        """
        found = find(traced.nodes, self._source.names)
        by_node = {p.node: self._same(p) for p in found.products if p.key in self.decisions}
        if len(by_node) != len(self.decisions):
            raise EngineError(
                f"{len(by_node)} of the {len(self.decisions)} calibrated products are in the graph "
                "for these inputs",
                code="QUANTIZE_GRAPH",
                hint="calibrate with inputs of these shapes",
            )
        done: dict[Node, Node] = {}
        for node in graph.topological(traced.nodes):
            src = tuple(done[s] for s in node.src)
            if node in by_node:
                done[node] = by_node[node].lowered(src, values)
            elif node in self._source.names:
                done[node] = values.get(self._source.names[node], node)
            elif src == node.src:
                done[node] = node
            else:
                done[node] = graph.make(node.op, src, node.arg, node.dtype, node.shape)
        return done

    def _same(self, product: Product) -> Decision:
        """The decision on ``product``, for its node of this trace."""
        known = self.decisions[product.key]
        return Decision(product, known.bits, known.coding, known.members)
