"""What the two parties of a dispute send and sign, and what the referee answers.

A list is larger than an envelope may be, so a party signs a :class:`DisputeMove` that names the
digest of its list, and the list travels beside it. Places are indices: a step of the segment, an
operation of the step's canonical list, a tile of the operation's value (docs/disputes.md).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from flopmarket.limits import (
    MAX_DISPUTE_MOVE_BYTES,
    MAX_DISPUTE_OPENED_TILES,
    MAX_DISPUTE_OPERATIONS,
    MAX_DISPUTE_OUTPUTS,
    MAX_DISPUTE_STEPS,
    MAX_DISPUTE_TILE_BYTES,
    MAX_DISPUTE_TILES,
)
from flopmarket.trust.documents import KeyId, RawPublicKey
from flopmarket.trust.encoding import Digest, MaxLength, document
from flopmarket.trust.errors import DocumentError
from flopmarket.trust.merkle import MerkleProof

NOWHERE = 2**64 - 1
"""The index that stands for "no such level was reached"."""


class Party(StrEnum):
    """The two sides: who did the work, and who recomputed it."""

    PRODUCER = "producer"
    AUDITOR = "auditor"

    @property
    def other(self) -> Party:
        """The opponent."""
        return Party.AUDITOR if self is Party.PRODUCER else Party.PRODUCER


class Level(StrEnum):
    """One message of each party a level (docs/disputes.md)."""

    STEPS = "steps"
    OPERATIONS = "operations"
    TILES = "tiles"
    INPUTS = "inputs"


class Outcome(StrEnum):
    """Who pays."""

    PRODUCER_WRONG = "producer-wrong"
    AUDITOR_WRONG = "auditor-wrong"
    BOTH_WRONG = "both-wrong"
    THIRD_RUN = "third-run"


class Reason(StrEnum):
    """Why a dispute ended as it did; part of the public surface."""

    WRONG_VALUE = "DISPUTE_WRONG_VALUE"
    SILENT = "DISPUTE_SILENT"
    MALFORMED = "DISPUTE_MALFORMED"
    WRONG_PLACE = "DISPUTE_WRONG_PLACE"
    WRONG_LENGTH = "DISPUTE_WRONG_LENGTH"
    WRONG_START = "DISPUTE_WRONG_START"
    WRONG_END = "DISPUTE_WRONG_END"
    STEP_NOT_REPRODUCED = "DISPUTE_STEP_NOT_REPRODUCED"
    OPERATION_NOT_REPRODUCED = "DISPUTE_OPERATION_NOT_REPRODUCED"
    VALUE_NOT_OWN = "DISPUTE_VALUE_NOT_OWN"
    INPUT_FORGED = "DISPUTE_INPUT_FORGED"
    INPUT_MISSING = "DISPUTE_INPUT_MISSING"
    INNER_DIFFERS = "DISPUTE_INNER_DIFFERS"
    TILE_TOO_LARGE = "DISPUTE_TILE_TOO_LARGE"
    UNDECIDABLE = "DISPUTE_UNDECIDABLE"
    SEGMENT_VOID = "DISPUTE_SEGMENT_VOID"
    PARTY_BANNED = "DISPUTE_PARTY_BANNED"


@document("flopmarket.dispute-claim.v1")
class Claim:
    """One party's committed end of the segment; ``key`` signs its moves."""

    key: RawPublicKey
    state_root_after: Digest
    outputs_root: Digest
    inner: Digest


@document("flopmarket.dispute-opening.v1")
class DisputeOpening:
    """The question: from one agreed state, two ends. Its digest is the dispute's id.

    ``audience`` is the coordinator's key id. Each level ends ``answer_us`` after it was asked.
    """

    audience: KeyId
    job_id: Digest
    segment_index: int
    first_step: int
    steps: int
    state_root_before: Digest
    producer: Claim
    auditor: Claim
    opened_at_us: int
    answer_us: int

    def __post_init__(self) -> None:
        if not 0 < self.steps <= MAX_DISPUTE_STEPS:
            raise DocumentError(
                f"a dispute is about 1 to {MAX_DISPUTE_STEPS} steps, not {self.steps}",
                code="DISPUTE_OPENING",
                hint="a longer segment is decided by a third run",
            )
        if self.producer.key == self.auditor.key:
            raise DocumentError("both parties have one key", code="DISPUTE_OPENING")
        if not self.answer_us:
            raise DocumentError("a level lasts longer than no time", code="DISPUTE_OPENING")

    def claim(self, party: Party) -> Claim:
        """The end that ``party`` committed to."""
        return self.producer if party is Party.PRODUCER else self.auditor


@document("flopmarket.dispute-move.v1")
class DisputeMove:
    """Signed by a party's device key: "this list is my answer at this level of this dispute"."""

    dispute_id: Digest
    level: Level
    payload_digest: Digest


@document("flopmarket.dispute-leaves.v1", max_bytes=MAX_DISPUTE_MOVE_BYTES)
class Leaves:
    """Hashes of the leaves of one tensor's tree."""

    hashes: Annotated[tuple[Digest, ...], MaxLength(MAX_DISPUTE_TILES)]


@document("flopmarket.step-roots.v1", max_bytes=MAX_DISPUTE_MOVE_BYTES)
class StepRoots:
    """Roots of the state before the first step and after every step, and of every step's outputs.

    ``stacked`` holds, for every output in the program's order, the leaf hashes of the tensor of
    all steps that the committed outputs root is made of.
    """

    states: Annotated[tuple[Digest, ...], MaxLength(MAX_DISPUTE_STEPS + 1)]
    outputs: Annotated[tuple[Digest, ...], MaxLength(MAX_DISPUTE_STEPS)]
    stacked: Annotated[tuple[Leaves, ...], MaxLength(MAX_DISPUTE_OUTPUTS)]


@document("flopmarket.operation-roots.v1", max_bytes=MAX_DISPUTE_MOVE_BYTES)
class OpRoots:
    """Root of every value of one step, in canonical order."""

    step: int
    roots: Annotated[tuple[Digest, ...], MaxLength(MAX_DISPUTE_OPERATIONS)]


@document("flopmarket.tile-roots.v1", max_bytes=MAX_DISPUTE_MOVE_BYTES)
class TileRoots:
    """Leaf hashes of all tiles of one value."""

    step: int
    operation: int
    tiles: Annotated[tuple[Digest, ...], MaxLength(MAX_DISPUTE_TILES)]


@document("flopmarket.opened-tensor.v1")
class OpenedTensor:
    """A tensor of an agreed bundle (state, frozen, data, a step's outputs) that a tile reads.

    ``source`` is the position among the operation's sources.
    """

    source: int
    root: Digest
    proof: MerkleProof


@document("flopmarket.opened-tile.v1", max_bytes=MAX_DISPUTE_TILE_BYTES + 4096)
class OpenedTile:
    """One tile of a source with its proof; ``source`` is its position among the sources."""

    source: int
    data: Annotated[bytes, MaxLength(MAX_DISPUTE_TILE_BYTES)]
    proof: MerkleProof


@document("flopmarket.tile-inputs.v1", max_bytes=MAX_DISPUTE_MOVE_BYTES)
class TileInputs:
    """The sender's own value of the tile in dispute, and everything the tile is computed from.

    ``step`` is :data:`NOWHERE` and ``operation`` the output's index where the steps agree and
    only the stacked outputs differ.
    """

    step: int
    operation: int
    tile: int
    value: Annotated[bytes, MaxLength(MAX_DISPUTE_TILE_BYTES)]
    tensors: Annotated[tuple[OpenedTensor, ...], MaxLength(MAX_DISPUTE_OPENED_TILES)]
    tiles: Annotated[tuple[OpenedTile, ...], MaxLength(MAX_DISPUTE_OPENED_TILES)]


Payload = StepRoots | OpRoots | TileRoots | TileInputs
PAYLOADS: dict[Level, type[Payload]] = {
    Level.STEPS: StepRoots,
    Level.OPERATIONS: OpRoots,
    Level.TILES: TileRoots,
    Level.INPUTS: TileInputs,
}


@document("flopmarket.dispute-verdict.v1")
class DisputeVerdict:
    """The end of a dispute, the same for everyone who replays its transcript.

    Indices are :data:`NOWHERE` where the dispute ended before that level. ``differing_tiles`` of
    ``tiles`` tiles of the operation differ; ``producer_wrong_bits`` and ``auditor_wrong_bits``
    count the bits of the recomputed tile that each has otherwise: policy tells a flipped bit from
    a lower precision by them (docs/audits.md §3).
    """

    dispute_id: Digest
    outcome: Outcome
    reason: Reason
    step: int
    operation: int
    tile: int
    tiles: int
    differing_tiles: int
    producer_wrong_bits: int
    auditor_wrong_bits: int
    seen: Annotated[str, MaxLength(1024)]
    remedy: Annotated[str, MaxLength(1024)]
