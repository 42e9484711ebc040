"""Every elementary function over all 2^32 float32 inputs, or over a fixed sample of them.

A :class:`Sweep` evaluates functions of :mod:`flopmarket.engine.macros` on bit patterns in ascending
order, on an OpenCL device or on the reference. Two kinds of digests name the results:

- the *digest* is SHA-256 over the result bytes, in blocks of 2^24 results: over the concatenated
  SHA-256 digests of the blocks where there are several (so that blocks can be hashed side by side),
  the one block's own where there is one;
- the *checksum* is computed by the device itself: the sum modulo 2^64 of a mixed word of every
  (input, result) pair. It costs no transfer, so that a GPU can afford all inputs.

``macros.json`` holds both for all inputs and for the sample of 2^24, with the largest error;
``tests/tools/exhaustive.py`` writes it. Admission compares.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from flopmarket.engine import graph, reference
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.dtypes import float32, uint32, uint64
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Node
from flopmarket.engine.macros import LAW, MACROS
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.runtime.prepared import Prepared
from flopmarket.engine.runtime.resident import CompileOptions

Array = np.ndarray[Any, Any]

ALL = 32
"""log2 of the number of inputs of an exhaustive sweep."""
SAMPLE = 24
"""log2 of the number of inputs of the sample that every admission computes."""
CHECKSUM_CHUNK = 2**22
"""Inputs of one call where only checksums are wanted."""
BLOCK = 2**24
"""Results under one SHA-256 of a digest."""
DATA = Path(__file__).with_name("macros.json")
"""What is known; see :class:`Golden`."""
_LANES = 4096  # inputs that one device-side sum folds
_SCRAMBLE = 0x9E3779B1
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # splitmix64's finaliser (Steele et al., 2014)


@dataclass(frozen=True, slots=True)
class Golden:
    """What is known of one function: digests and checksums in hex, the largest error and where."""

    name: str
    log2_inputs: int
    """Over how many inputs the error was measured: :data:`ALL`, or :data:`SAMPLE` so far."""
    max_ulp: float
    """Largest distance from the exact value, in units in the last place of that."""
    worst_input: str
    """Bits of the input with the largest error, in hex."""
    digest: str | None
    checksum: str | None
    """Of all inputs; None where no device has computed them yet."""
    sample_digest: str
    sample_checksum: str


@cache
def golden() -> Mapping[str, Golden]:
    """The recorded results by function."""
    rows = json.loads(DATA.read_text(encoding="utf-8"))["functions"]
    return {name: Golden(name=name, **row) for name, row in rows.items()}


def sample_bits(index: Array, log2_count: int) -> Array:
    """Bit patterns (uint32) of inputs ``index`` (uint32) of the sweep of 2**``log2_count`` inputs.

    Of all inputs, the pattern is the index. Of 2^24 or fewer, it is one of the 256 patterns that
    share the index's upper bits, scrambled; patterns whose lower half is zero (all values of
    bfloat16, so zeros, infinities and powers of two) are always there.
    """
    if log2_count == ALL:
        return index
    at = index << np.uint32(SAMPLE - log2_count)
    low = (at & np.uint32(255)) * (at >> np.uint32(8) | np.uint32(1)) * np.uint32(_SCRAMBLE)
    return np.asarray((at << np.uint32(8)) + (low >> np.uint32(24)))


class Sweep:
    """Functions evaluated on ``chunk`` inputs at a time.

    ``target`` is a device with what code is generated for it; None is the reference. ``log2_count``
    says how many inputs there are (:data:`ALL`, or 16 to :data:`SAMPLE`); ``chunk``, a power of
    two, how many a call takes. With ``sums`` a call gives partial checksums instead of results.

    Raises EngineError (SWEEP_SIZE) and what preparing a graph may raise.
    """

    def __init__(
        self,
        names: Sequence[str],
        target: tuple[Device, Target] | None,
        *,
        log2_count: int = SAMPLE,
        chunk: int = 2**20,
        sums: bool = False,
    ) -> None:
        if not (log2_count == ALL or 16 <= log2_count <= SAMPLE) or chunk % _LANES:
            raise EngineError(
                f"no sweep of 2^{log2_count} inputs by {chunk}",
                code="SWEEP_SIZE",
                hint=f"2^32, or 2^16 to 2^{SAMPLE}, by multiples of {_LANES}",
            )
        self.count = 2**log2_count
        self.chunk = min(chunk, self.count)
        self.start = graph.input_("buffer", "sweep start", uint32, (1,))
        bits = _inputs(self.start, self.chunk, log2_count)
        values = [MACROS[name](graph.bitcast(bits, float32)) for name in names]
        nodes = [_partial_checksum(bits, value) if sums else value for value in values]
        self.nodes = dict(zip(names, canonicalise(nodes), strict=True))
        """The canonical node of each function's results."""
        self.prepared: Prepared | None = None
        if target is not None:
            self.prepared = Prepared(list(self.nodes.values()), *target, CompileOptions())

    def leaves(self, start: int) -> dict[Node, Array]:
        """What the graph is evaluated with for the inputs from ``start`` on."""
        return {self.start: np.array([start], dtype=np.uint32)}

    def __call__(self, start: int) -> dict[str, Array]:
        """Results, float32 [chunk], or partial sums, uint64, of inputs ``start``, start + 1, ..."""
        leaves = self.leaves(start)
        if self.prepared is None:
            found = reference.evaluate(self.nodes.values(), leaves)
            return dict(zip(self.nodes, found, strict=True))
        values = self.prepared.run(leaves)
        return {name: values[node] for name, node in self.nodes.items()}

    def close(self) -> None:
        """Free device memory."""
        if self.prepared is not None:
            self.prepared.release()


def _inputs(start: Node, chunk: int, log2_count: int) -> Node:
    """:func:`sample_bits` of start, start + 1, ... as a graph."""

    def word(value: int) -> Node:
        return graph.filled(value, uint32, (chunk,))

    index = graph.add(graph.iota(0, (chunk,), uint32), graph.expand(start, (chunk,)))
    if log2_count == ALL:
        return index
    at = graph.bit("shl", index, word(SAMPLE - log2_count))
    odd = graph.bit("or", graph.bit("shr", at, word(8)), word(1))
    low = graph.mul(graph.mul(graph.bit("and", at, word(255)), odd), word(_SCRAMBLE))
    return graph.add(graph.bit("shl", at, word(8)), graph.bit("shr", low, word(24)))


def _partial_checksum(bits: Node, value: Node) -> Node:
    """Sums modulo 2^64 of mixed (input, result) pairs, uint64 [chunk / 4096]."""

    def word(value: int) -> Node:
        return graph.filled(value, uint64, bits.shape)

    result = graph.cast(graph.bitcast(value, uint32), uint64)
    mixed = graph.bit("or", graph.bit("shl", graph.cast(bits, uint64), word(32)), result)
    for shift, factor in zip((30, 27), _MIX, strict=True):
        mixed = graph.bit("xor", mixed, graph.bit("shr", mixed, word(shift)))
        mixed = graph.mul(mixed, word(factor))
    mixed = graph.bit("xor", mixed, graph.bit("shr", mixed, word(31)))
    return graph.reduce("sum", graph.reshape(mixed, (bits.elements // _LANES, _LANES)), (1,))


# ---------------------------------------------------------------- digests


def digest_of(blocks: Sequence[bytes]) -> str:
    """The digest of results whose blocks have these SHA-256 digests, as hex."""
    return (blocks[0] if len(blocks) == 1 else hashlib.sha256(b"".join(blocks)).digest()).hex()


def digests(
    target: tuple[Device, Target] | None,
    names: Sequence[str] = LAW,
    *,
    log2_count: int = SAMPLE,
    chunk: int = 2**20,
) -> dict[str, str]:
    """The digest of each function's results, as hex; arguments as for :class:`Sweep`."""
    sweep = Sweep(names, target, log2_count=log2_count, chunk=chunk)
    blocks: dict[str, list[bytes]] = {name: [] for name in names}
    try:
        for block in range(0, sweep.count, BLOCK):
            hashes = {name: hashlib.sha256() for name in names}
            for start in range(block, min(block + BLOCK, sweep.count), sweep.chunk):
                for name, values in sweep(start).items():
                    hashes[name].update(values.data)
            for name in names:
                blocks[name].append(hashes[name].digest())
    finally:
        sweep.close()
    return {name: digest_of(blocks[name]) for name in names}


def checksums(
    target: tuple[Device, Target] | None,
    names: Sequence[str] = LAW,
    *,
    log2_count: int = SAMPLE,
    chunk: int = CHECKSUM_CHUNK,
) -> dict[str, str]:
    """The checksum of each function's results, as hex; arguments as for :class:`Sweep`."""
    sweep = Sweep(names, target, log2_count=log2_count, chunk=chunk, sums=True)
    totals = dict.fromkeys(names, 0)
    try:
        for start in range(0, sweep.count, sweep.chunk):
            for name, parts in sweep(start).items():
                totals[name] += int(parts.sum(dtype=np.uint64))
    finally:
        sweep.close()
    return {name: f"{total % 2**64:016x}" for name, total in totals.items()}


def wrong_functions(
    target: tuple[Device, Target], names: Sequence[str] = LAW, *, log2_count: int = SAMPLE
) -> tuple[str, ...]:
    """The functions whose checksums differ from the golden ones on a device, for admission.

    ``log2_count`` is :data:`SAMPLE` (a second or two on a CPU) or :data:`ALL` (for GPUs); what has
    no golden checksum of all inputs yet is compared on the sample.
    """
    known = golden()
    counts = {
        name: ALL if log2_count == ALL and known[name].checksum is not None else SAMPLE
        for name in names
    }
    wrong = []
    for count in sorted(set(counts.values())):
        group = [name for name in names if counts[name] == count]
        found = checksums(target, group, log2_count=count)
        for name in group:
            row = known[name]
            if found[name] != (row.checksum if count == ALL else row.sample_checksum):
                wrong.append(name)
    return tuple(wrong)
