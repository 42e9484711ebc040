"""What a wrong tile looks like: policy tells a failing memory from another arithmetic by it."""

from __future__ import annotations

from dataclasses import dataclass

from flopmarket.jobs.dispute_problem import JobProblem
from flopmarket.jobs.dispute_replay import agreed_of
from flopmarket.trust.dispute import Dispute
from flopmarket.trust.dispute_documents import Level, Party, Reason, TileInputs


@dataclass(frozen=True, slots=True)
class WrongTile:
    """A party's wrong value of the tile that decided a dispute.

    ``elements`` counts those that differ from the recomputed ones, and one more for each further
    tile in which the parties differ; ``most_bits`` is the largest number of wrong bits in one.
    """

    value: bytes
    elements: int
    most_bits: int


def wrong_tiles(dispute: Dispute, problem: JobProblem) -> dict[Party, WrongTile]:
    """The wrong tile of every party that has one; none where no tile was recomputed."""
    verdict = dispute.verdict
    if verdict is None or verdict.reason is not Reason.WRONG_VALUE:
        return {}
    sent = {party: dispute.answer(Level.INPUTS, party) for party in Party}
    opened = sent[Party.PRODUCER]
    assert isinstance(opened, TileInputs), "both parties opened the tile"
    right = problem.recompute(dispute.place, agreed_of(dispute), opened)
    size = problem.operation(dispute.place).dtype.size_bytes
    found = {}
    for party, inputs in sent.items():
        assert isinstance(inputs, TileInputs), "both parties opened the tile"
        bits = _wrong_bits(inputs.value, right, size)
        if bits:
            elements = len(bits) + max(0, verdict.differing_tiles - 1)
            found[party] = WrongTile(inputs.value, elements, max(bits))
    return found


def _wrong_bits(value: bytes, right: bytes, size: int) -> list[int]:
    """Wrong bits of every element that has some; of another length, all are wrong."""
    if len(value) != len(right):
        return [8 * size] * max(1, len(right) // size)
    differing = []
    for at in range(0, len(right), size):
        ours, theirs = value[at : at + size], right[at : at + size]
        if ours != theirs:
            bits = int.from_bytes(ours, "little") ^ int.from_bytes(theirs, "little")
            differing.append(bits.bit_count())
    return differing
