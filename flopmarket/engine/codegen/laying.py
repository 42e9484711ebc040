"""Operands of large products on a GPU without tiles, laid so that neighbours read neighbours.

These are products of 8-bit integers, and all where a group has no room for tiles (``tiled.py``).
There a work-item computes one element of the product and its neighbours the next columns of a row.
So the right operand has to lie with its columns side by side, and neither operand may be computed
on the way: each element is read by a whole row or column of work-items. What lies otherwise, a
transposed matrix above all, is written once to a buffer, which costs a pass over it. Measured on an
NVIDIA H200, 4,096 x 4,096 x 2,048 with the right operand transposed: 137 ms where it was, 17 ms
laid.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from flopmarket.engine import views
from flopmarket.engine.codegen.emit import Emitter, Temp
from flopmarket.engine.codegen.loops import Scope
from flopmarket.engine.codegen.lower import Lowering
from flopmarket.engine.codegen.pack_plain import matrix_of
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.schedule.fuse import Kernel, is_packed_dot
from flopmarket.engine.views import ZERO, Index


def lay_operands(lowering: Lowering, kernel: Kernel, node: Node) -> Mapping[Node, Temp]:
    """Append the calls that lay what does not lie well; where each operand was laid.

    None is laid on a CPU, and none of a product too small to pay for it.
    """
    if lowering.target.is_cpu or not is_packed_dot(node):
        return {}
    laid: dict[Node, Temp] = {}
    for operand, source in zip("ab", node.src, strict=True):
        matrix = matrix_of(lowering, kernel, operand, source)
        transposed = matrix is not None and operand == "b" and matrix.lane not in (0, 1)
        if transposed or _is_computed(lowering, kernel, source):
            laid[source] = _laid(lowering, kernel, source)
    return laid


def _is_computed(lowering: Lowering, kernel: Kernel, source: Node) -> bool:
    """Whether elements are computed on the way, and laying them makes no more of them: the windows
    of a convolution stay where they are."""
    is_stored = lowering.is_stored(kernel)
    node = source
    while node.op is Op.VIEW and not is_stored(node):
        node = node.src[0]
    return not is_stored(node) and source.elements <= node.elements


def _laid(lowering: Lowering, kernel: Kernel, source: Node) -> Temp:
    """Where ``source`` lies in row-major order, once for all batches where they are equal."""
    key: Hashable = ("laid", source)
    found = lowering.packed.get(key)
    if found is not None:
        return found
    shared = lowering.is_shared(kernel, source)
    shape = (1, *source.shape[1:]) if shared else source.shape
    temp = lowering.temp(source.dtype, source.elements // (source.shape[0] if shared else 1))

    def emit(emitter: Emitter, index: Index, scope: Scope) -> None:
        there = (ZERO, *index[1:]) if shared else index
        value = emitter.value(source, there, scope)
        emitter.store(temp, views.flatten(index, shape), value.text, scope, False)

    lowering.packed[key] = temp
    lowering.per_element("lay", kernel, shape, emit)
    return temp
