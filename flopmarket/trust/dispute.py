"""The dispute over one segment: a state machine that finds the one tile that decides it.

Two parties agree on the state before a segment and committed to different ends. Level by level each
sends one whole list (docs/disputes.md): roots of the steps, of the operations of the first
differing step, of the tiles of the first differing operation, then the inputs of the first
differing tile, which the referee recomputes. Every list must reproduce what its sender said one
level above, so a party is held to its first word.

:class:`Dispute` takes frozen events and returns instructions. It has no clock, no key and no file:
times come with the events, signatures are verified before (``trust.transcript``), and the job is
known through the :class:`Problem` port. The same events give the same verdict to everyone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flopmarket.errors import Conflict, InvalidInput
from flopmarket.limits import (
    MAX_DISPUTE_OPENED_BYTES,
    MAX_DISPUTE_OPENED_TILES,
    MAX_DISPUTE_ROUNDS,
)
from flopmarket.trust.dispute_documents import (
    NOWHERE,
    DisputeOpening,
    DisputeVerdict,
    Level,
    OpRoots,
    Outcome,
    Party,
    Payload,
    Reason,
    StepRoots,
    TileInputs,
    TileRoots,
)
from flopmarket.trust.dispute_port import Agreed, InputsRefused, Place, Problem
from flopmarket.trust.encoding import digest
from flopmarket.trust.merkle import leaf_hash

REMEDIES: dict[Reason, str] = {
    Reason.WRONG_VALUE: "test the device again (flop bench), memory and driver first; a device "
    "that computes other bits cannot offer exact mode",
    Reason.SILENT: "keep the worker running and reachable while a segment of it is disputed; the "
    "state before the segment must be kept until the verdict",
    Reason.MALFORMED: "update the worker: its list is not a document of this protocol",
    Reason.WRONG_PLACE: "update the worker: it answered about another place than was asked",
    Reason.WRONG_LENGTH: "update the worker: its list is not as long as the program says",
    Reason.WRONG_START: "replay from the agreed state, not from another checkpoint",
    Reason.WRONG_END: "a replay that does not reach the committed end means that the commitment "
    "was not computed, or that the device does not repeat itself: test it (flop bench)",
    Reason.STEP_NOT_REPRODUCED: "the operations sent do not lead to the step's own roots: replay "
    "un-fused on the device that replayed the steps, and test it",
    Reason.OPERATION_NOT_REPRODUCED: "the tiles sent are not those of the operation's own root",
    Reason.VALUE_NOT_OWN: "the value sent is not the tile that was listed",
    Reason.INPUT_FORGED: "send tiles as they were agreed, with proofs made from the same trace",
    Reason.INPUT_MISSING: "send every tile that the operation reads",
    Reason.INNER_DIFFERS: "nobody is slashed: a third account runs the segment, and who reported "
    "other checksums pays for it",
    Reason.TILE_TOO_LARGE: "nobody is slashed: one tile reads more than a referee recomputes, so a "
    "third account runs the segment",
    Reason.UNDECIDABLE: "nobody is slashed: lists cannot decide this segment, so a third account "
    "runs it",
    Reason.SEGMENT_VOID: "nothing: the segment counts no more, whoever was right",
    Reason.PARTY_BANNED: "one of the two may not act any more, so the house decides",
}
"""What people can do about each reason."""


@dataclass(frozen=True, slots=True)
class DisputeWaits:
    """How long a referee waits, in microseconds: 14 minutes for all four levels."""

    answer_us: int = 210 * 1_000_000

    def __post_init__(self) -> None:
        if self.answer_us <= 0:
            raise InvalidInput("a level lasts longer than no time", code="DISPUTE_WAITS")


# ---------------------------------------------------------------- events and instructions


@dataclass(frozen=True, slots=True)
class Answered:
    """A party's signed list arrived and was decoded."""

    party: Party
    payload: Payload
    at_us: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A party signed bytes that are no list of the level that was asked."""

    party: Party
    why: str
    at_us: int


@dataclass(frozen=True, slots=True)
class Clock:
    """Time passed."""

    at_us: int


@dataclass(frozen=True, slots=True)
class AskedAgain:
    """The referee was away and asks the present question again: its time begins anew."""

    at_us: int


Event = Answered | Unreadable | Clock | AskedAgain


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask a party for its list of a level at a place, by a deadline."""

    party: Party
    level: Level
    place: Place
    deadline_us: int


@dataclass(frozen=True, slots=True)
class Conclude:
    """The dispute is over."""

    verdict: DisputeVerdict


Instruction = Ask | Conclude


class _Lost(Exception):
    """A party's answer loses at once."""

    def __init__(self, reason: Reason, seen: str) -> None:
        super().__init__(seen)
        self.reason, self.seen = reason, seen


class Dispute:
    """One dispute. Call :meth:`begin` once, then :meth:`handle` with events in order of time."""

    def __init__(self, opening: DisputeOpening, problem: Problem) -> None:
        ends = [(c.state_root_after, c.outputs_root) for c in (opening.producer, opening.auditor)]
        if ends[0] == ends[1] and opening.producer.inner == opening.auditor.inner:
            raise Conflict("both parties came to the same end", code="DISPUTE_NO_DIFFERENCE")
        self._same_end = ends[0] == ends[1]
        self.opening = opening
        self.dispute_id = digest(opening)
        self.level = Level.STEPS
        self.place = Place()
        self.verdict: DisputeVerdict | None = None
        self._problem = problem
        self._now_us = opening.opened_at_us
        self._deadline_us = opening.opened_at_us + opening.answer_us
        self._answers: dict[Party, Payload] = {}
        self._past: dict[Level, dict[Party, Payload]] = {}
        self._differing = 0

    def begin(self) -> tuple[Instruction, ...]:
        """The first questions; a verdict at once where only ``inner`` differs (§7: no slash)."""
        if self._same_end:
            return self._conclude(
                Outcome.THIRD_RUN,
                Reason.INNER_DIFFERS,
                "equal states and outputs, different checksums",
            )
        return self._ask()

    def handle(self, event: Event) -> tuple[Instruction, ...]:
        """Apply one event. A message after the deadline finds its sender silent.

        Raises Conflict (DISPUTE_OVER, DISPUTE_TIME, DISPUTE_OUT_OF_TURN) and changes nothing when
        the event does not fit.
        """
        if self.verdict is not None:
            raise Conflict("the dispute has its verdict", code="DISPUTE_OVER")
        if event.at_us < self._now_us:
            raise Conflict("events come in order of time", code="DISPUTE_TIME")
        if isinstance(event, AskedAgain):
            self._now_us = event.at_us
            self._deadline_us = event.at_us + self.opening.answer_us
            return tuple(ask for ask in self._ask() if ask.party not in self._answers)
        if event.at_us > self._deadline_us:
            self._now_us = event.at_us
            return self._silence()
        if isinstance(event, Clock):
            self._now_us = event.at_us
            return ()
        if event.party in self._answers:
            raise Conflict(
                f"the {event.party} has answered the level {self.level}",
                code="DISPUTE_OUT_OF_TURN",
            )
        self._now_us = event.at_us
        if isinstance(event, Unreadable):
            return self._lose(event.party, Reason.MALFORMED, event.why)
        try:
            self._check(event.party, event.payload)
        except _Lost as lost:
            return self._lose(event.party, lost.reason, lost.seen)
        self._answers[event.party] = event.payload
        return self._descend() if len(self._answers) == 2 else ()

    def answer(self, level: Level, party: Party) -> Payload | None:
        """A list that was accepted, for whoever explains the dispute."""
        kept = self._answers if level is self.level else self._past.get(level, {})
        return kept.get(party)

    # ------------------------------------------------------------ one answer

    def _check(self, party: Party, payload: Payload) -> None:
        """§5: a list that does not reproduce its sender's own word loses at once."""
        if isinstance(payload, StepRoots) and self.level is Level.STEPS:
            self._check_steps(party, payload)
        elif isinstance(payload, OpRoots) and self.level is Level.OPERATIONS:
            self._check_operations(party, payload)
        elif isinstance(payload, TileRoots) and self.level is Level.TILES:
            self._check_tiles(party, payload)
        elif isinstance(payload, TileInputs) and self.level is Level.INPUTS:
            self._check_inputs(party, payload)
        else:
            raise _Lost(Reason.MALFORMED, f"{type(payload).__name__} at the level {self.level}")

    def _check_steps(self, party: Party, sent: StepRoots) -> None:
        steps, claim = self.opening.steps, self.opening.claim(party)
        if len(sent.states) != steps + 1 or len(sent.outputs) != steps:
            raise _Lost(
                Reason.WRONG_LENGTH,
                f"{len(sent.states)} states and {len(sent.outputs)} outputs of {steps} steps",
            )
        if sent.states[0] != self.opening.state_root_before:
            raise _Lost(
                Reason.WRONG_START,
                f"the list begins at {_short(sent.states[0])}, agreed was "
                f"{_short(self.opening.state_root_before)}",
            )
        if sent.states[-1] != claim.state_root_after:
            raise _Lost(
                Reason.WRONG_END,
                f"the list ends at {_short(sent.states[-1])}, committed was "
                f"{_short(claim.state_root_after)}",
            )
        root = self._problem.stacked_root(steps, sent.stacked)
        if root is None:
            raise _Lost(Reason.WRONG_LENGTH, "leaves of the outputs are of another number")
        if root != claim.outputs_root:
            raise _Lost(
                Reason.WRONG_END,
                f"the outputs' leaves make {_short(root)}, committed was "
                f"{_short(claim.outputs_root)}",
            )

    def _check_operations(self, party: Party, sent: OpRoots) -> None:
        if sent.step != self.place.step:
            raise _Lost(Reason.WRONG_PLACE, f"step {sent.step}, asked was {self.place.step}")
        if len(sent.roots) != self._problem.operations:
            raise _Lost(
                Reason.WRONG_LENGTH,
                f"{len(sent.roots)} roots, a step has {self._problem.operations} operations",
            )
        steps = self._steps(party)
        wanted = steps.states[sent.step + 1], steps.outputs[sent.step]
        if self._problem.step_roots(sent.roots) != wanted:
            raise _Lost(
                Reason.STEP_NOT_REPRODUCED,
                f"the operations of step {sent.step} do not lead to the roots sent for it",
            )

    def _check_tiles(self, party: Party, sent: TileRoots) -> None:
        place = self.place
        if (sent.step, sent.operation) != (place.step, place.operation):
            raise _Lost(Reason.WRONG_PLACE, f"operation {sent.operation} of step {sent.step}")
        wanted = self._problem.tiles(sent.operation)
        if len(sent.tiles) != wanted:
            raise _Lost(Reason.WRONG_LENGTH, f"{len(sent.tiles)} tiles, the value has {wanted}")
        root = self._operations(party).roots[sent.operation]
        if self._problem.operation_root(sent.operation, sent.tiles) != root:
            raise _Lost(
                Reason.OPERATION_NOT_REPRODUCED,
                f"the tiles of operation {sent.operation} do not make the root sent for it",
            )

    def _check_inputs(self, party: Party, sent: TileInputs) -> None:
        place = self.place
        if Place(sent.step, sent.operation, sent.tile) != place:
            raise _Lost(Reason.WRONG_PLACE, f"tile {sent.tile} of operation {sent.operation}")
        if leaf_hash(sent.value) != self._listed(party):
            raise _Lost(Reason.VALUE_NOT_OWN, "the value's hash is not the one in the list")
        # Both openings are checked, though one would do: whoever cannot open loses (§5).
        self._recomputed(sent)

    def _recomputed(self, sent: TileInputs) -> bytes:
        place = self.place
        producer = self._steps(Party.PRODUCER)
        if place.step == NOWHERE:
            agreed = Agreed(b"", (), producer.outputs)
        else:
            roots = self._operations(Party.PRODUCER).roots[: place.operation]
            agreed = Agreed(producer.states[place.step], roots, ())
        try:
            return self._problem.recompute(place, agreed, sent)
        except InputsRefused as refused:
            raise _Lost(refused.reason, refused.message) from None

    # ------------------------------------------------------------ both answers

    def _descend(self) -> tuple[Instruction, ...]:
        """Both lists of a level are in: the first difference is where the next level looks."""
        level, self._past[self.level] = self.level, self._answers
        if level is Level.STEPS:
            return self._after_steps()
        if level is Level.OPERATIONS:
            a, b = self._operations(Party.PRODUCER), self._operations(Party.AUDITOR)
            first, _ = _difference(a.roots, b.roots)
            return self._enter(Level.TILES, Place(self.place.step, first))
        if level is Level.TILES:
            ours, theirs = self._tiles(Party.PRODUCER), self._tiles(Party.AUDITOR)
            first, self._differing = _difference(ours.tiles, theirs.tiles)
            return self._enter(Level.INPUTS, Place(self.place.step, self.place.operation, first))
        return self._judge()

    def _after_steps(self) -> tuple[Instruction, ...]:
        a, b = self._steps(Party.PRODUCER), self._steps(Party.AUDITOR)
        ours = list(zip(a.states[1:], a.outputs, strict=True))
        theirs = list(zip(b.states[1:], b.outputs, strict=True))
        if ours != theirs:
            return self._enter(Level.OPERATIONS, Place(_difference(ours, theirs)[0]))
        output, _ = _difference(a.stacked, b.stacked)
        leaf, self._differing = _difference(a.stacked[output].hashes, b.stacked[output].hashes)
        return self._enter(Level.INPUTS, Place(NOWHERE, output, leaf))

    def _enter(self, level: Level, place: Place) -> tuple[Instruction, ...]:
        self.place = place
        if level is Level.INPUTS:
            effort = self._problem.effort(place)
            if effort.too_large:
                return self._conclude(
                    Outcome.THIRD_RUN,
                    Reason.TILE_TOO_LARGE,
                    f"{self._problem.name(place)}: computed from up to {effort.tiles} tiles of "
                    f"{effort.size_bytes} bytes in {effort.rounds} rounds; a referee takes "
                    f"{MAX_DISPUTE_OPENED_TILES}, {MAX_DISPUTE_OPENED_BYTES} and "
                    f"{MAX_DISPUTE_ROUNDS}",
                )
        self.level = level
        self._answers = {}
        self._deadline_us = self._now_us + self.opening.answer_us
        return self._ask()

    @property
    def deadline_us(self) -> int:
        """When the present level ends."""
        return self._deadline_us

    def _ask(self) -> tuple[Ask, ...]:
        return tuple(Ask(p, self.level, self.place, self._deadline_us) for p in Party)

    def _judge(self) -> tuple[Instruction, ...]:
        """§5: the referee's bits decide; both wrong, both pay."""
        answers = {party: self._inputs(party) for party in Party}
        # Opened against agreed roots, both openings give the same bits; one is recomputed.
        right = self._recomputed(answers[Party.PRODUCER])
        bits = {party: _wrong_bits(sent.value, right) for party, sent in answers.items()}
        guilty = [party for party in Party if answers[party].value != right]
        where = self._problem.name(self.place)
        if len(guilty) == 2:
            seen = f"{where}: neither value is the recomputed one"
        else:
            seen = f"{where}: the {guilty[0]} has {bits[guilty[0]]} bits of the tile wrong"
        outcome = Outcome.BOTH_WRONG if len(guilty) == 2 else _loses(guilty[0])
        return self._conclude(outcome, Reason.WRONG_VALUE, seen, bits)

    def _silence(self) -> tuple[Instruction, ...]:
        """§5: silence after the deadline loses; of both, both."""
        silent = [party for party in Party if party not in self._answers]
        seen = f"no answer from the {' and the '.join(silent)} at the level {self.level}"
        outcome = Outcome.BOTH_WRONG if len(silent) == 2 else _loses(silent[0])
        return self._conclude(outcome, Reason.SILENT, seen)

    def _lose(self, party: Party, reason: Reason, seen: str) -> tuple[Instruction, ...]:
        return self._conclude(_loses(party), reason, f"the {party}: {seen}")

    def _conclude(
        self, outcome: Outcome, reason: Reason, seen: str, bits: dict[Party, int] | None = None
    ) -> tuple[Instruction, ...]:
        bits = bits or dict.fromkeys(Party, 0)
        place = self.place
        tiles = 0 if place.tile == NOWHERE else self._tile_count()
        self.verdict = DisputeVerdict(
            self.dispute_id,
            outcome,
            reason,
            place.step,
            place.operation,
            place.tile,
            tiles,
            self._differing,
            bits[Party.PRODUCER],
            bits[Party.AUDITOR],
            seen[:1000],
            REMEDIES[reason],
        )
        return (Conclude(self.verdict),)

    # ------------------------------------------------------------ what was said

    def _tile_count(self) -> int:
        if self.place.step == NOWHERE:
            return len(self._steps(Party.PRODUCER).stacked[self.place.operation].hashes)
        return self._problem.tiles(self.place.operation)

    def _listed(self, party: Party) -> bytes:
        """The leaf hash of the disputed tile in a party's own list."""
        if self.place.step == NOWHERE:
            return self._steps(party).stacked[self.place.operation].hashes[self.place.tile]
        return self._tiles(party).tiles[self.place.tile]

    def _steps(self, party: Party) -> StepRoots:
        found = self._past[Level.STEPS][party]
        assert isinstance(found, StepRoots)
        return found

    def _operations(self, party: Party) -> OpRoots:
        found = self._past[Level.OPERATIONS][party]
        assert isinstance(found, OpRoots)
        return found

    def _tiles(self, party: Party) -> TileRoots:
        found = self._past[Level.TILES][party]
        assert isinstance(found, TileRoots)
        return found

    def _inputs(self, party: Party) -> TileInputs:
        found = self._past[Level.INPUTS][party]
        assert isinstance(found, TileInputs)
        return found


def _difference(a: Sequence[object], b: Sequence[object]) -> tuple[int, int]:
    """Index of the first difference of two lists of one length, and how many there are."""
    found = [at for at, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
    assert found, "lists that lead to different roots differ"
    return found[0], len(found)


def _wrong_bits(value: bytes, right: bytes) -> int:
    """Bits in which a tile differs; a tile of another length has all of them wrong."""
    if len(value) != len(right):
        return 8 * len(right)
    return (int.from_bytes(value, "little") ^ int.from_bytes(right, "little")).bit_count()


def _loses(party: Party) -> Outcome:
    return Outcome.PRODUCER_WRONG if party is Party.PRODUCER else Outcome.AUDITOR_WRONG


def _short(root: bytes) -> str:
    return root.hex()[:16]
