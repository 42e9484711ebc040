"""Step checksums, computed on the device by the program itself.

A commitment's private ``inner`` value (docs/audits.md §2) hashes one checksum per state and output
tensor for every step, so that it can only be known by doing every step. The checksum is exact
integer arithmetic: sum over i of word[i] * (2 i + 1) modulo 2^32, the words being the canonical
bits.
"""

from __future__ import annotations

from flopmarket.engine import dtypes, graph
from flopmarket.engine.graph import Node
from flopmarket.engine.program import Program

CHECKSUMS = "__checksums__"
"""Name of the extra output: uint32, one word per state tensor, then one per output."""


def instrument(program: Program) -> Program:
    """``program`` with the checksums of its next state and outputs as one more output.

    The result runs like the original; its digest is another, and nobody signs it.
    """
    sums = [_checksum(node) for node in (*program.state_nodes, *program.output_nodes)]
    return Program.build(
        frozen=program.frozen,
        state=program.state,
        inputs=program.inputs,
        next_state=program.state_nodes,
        outputs=[
            *((s.name, n) for s, n in zip(program.outputs, program.output_nodes, strict=True)),
            (CHECKSUMS, graph.concat(sums, 0)),
        ],
        reserved_names=True,
    )


def _checksum(node: Node) -> Node:
    """uint32 [1]."""
    flat = graph.reshape(node, (node.elements,))
    if flat.dtype.bits == 32:
        words = graph.bitcast(flat, dtypes.uint32)
    elif flat.dtype.bits == 64:
        wide = graph.bitcast(flat, dtypes.uint64)
        high = graph.bit("shr", wide, graph.filled(32, dtypes.uint64, wide.shape))
        words = graph.bit("xor", graph.cast(wide, dtypes.uint32), graph.cast(high, dtypes.uint32))
    elif flat.dtype.is_float:
        words = graph.cast(graph.bitcast(flat, dtypes.uint16), dtypes.uint32)
    else:
        words = graph.cast(flat, dtypes.uint32)
    position = graph.iota(0, words.shape, dtypes.uint32)
    weight = graph.add(graph.add(position, position), graph.filled(1, dtypes.uint32, words.shape))
    return graph.reshape(graph.reduce("sum", graph.mul(words, weight), (0,)), (1,))
