"""What a dispute asks of the job behind it: the port between the protocol and the arithmetic.

:class:`flopmarket.trust.dispute.Dispute` knows lists and roots; shapes, counts and values come
through :class:`Problem`, which ``flopmarket.jobs.dispute_problem`` implements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from flopmarket.errors import FlopmarketError
from flopmarket.limits import (
    MAX_DISPUTE_OPENED_BYTES,
    MAX_DISPUTE_OPENED_TILES,
    MAX_DISPUTE_ROUNDS,
)
from flopmarket.trust.dispute_documents import NOWHERE, Leaves, Reason, TileInputs


@dataclass(frozen=True, slots=True)
class Place:
    """Where the search stands; :data:`NOWHERE` for levels not reached.

    ``step`` NOWHERE with an operation: the stacked output of that number.
    """

    step: int = NOWHERE
    operation: int = NOWHERE
    tile: int = NOWHERE


@dataclass(frozen=True, slots=True)
class Agreed:
    """What both parties signed alike, as far as one tile needs it.

    ``state_root`` is that before the step, ``roots`` those of the operations before the disputed
    one; ``outputs`` are the outputs roots of all steps, for the stacked tensors.
    """

    state_root: bytes
    roots: Sequence[bytes]
    outputs: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Effort:
    """The most that one tile is computed from, and how many rounds that takes one by one."""

    tiles: int
    size_bytes: int
    rounds: int

    @property
    def too_large(self) -> bool:
        """Whether a referee is spared it."""
        return (
            self.tiles > MAX_DISPUTE_OPENED_TILES
            or self.size_bytes > MAX_DISPUTE_OPENED_BYTES
            or self.rounds > MAX_DISPUTE_ROUNDS
        )


class InputsRefused(FlopmarketError):
    """The inputs of a tile prove nothing: forged, or not all there."""

    default_code = Reason.INPUT_FORGED

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message, code=reason)
        self.reason = reason


class Problem(Protocol):
    """What a referee knows of the job: counts, shapes and arithmetic, never a party's word."""

    @property
    def operations(self) -> int:
        """Values of one step."""
        ...

    @property
    def outputs(self) -> int:
        """Output tensors of one step."""
        ...

    def stacked_root(self, steps: int, stacked: Sequence[Leaves]) -> bytes | None:
        """The outputs root that these leaf hashes make; None when their number is wrong."""
        ...

    def step_roots(self, roots: Sequence[bytes]) -> tuple[bytes, bytes]:
        """State root and outputs root that a step with these operation roots ends in."""
        ...

    def tiles(self, operation: int) -> int:
        """Tiles of a value."""
        ...

    def operation_root(self, operation: int, tiles: Sequence[bytes]) -> bytes:
        """The root that these leaf hashes make."""
        ...

    def effort(self, place: Place) -> Effort:
        """The most that the tile at a place is computed from."""
        ...

    def recompute(self, place: Place, agreed: Agreed, inputs: TileInputs) -> bytes:
        """Canonical bytes of a tile, from proven inputs alone; raises :class:`InputsRefused`."""
        ...

    def name(self, place: Place) -> str:
        """The place in words for people."""
        ...
