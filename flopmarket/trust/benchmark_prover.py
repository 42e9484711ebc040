"""The device's side of a benchmark challenge, as a machine of values.

``start`` takes the nonce, ``stage`` says what to compute, ``finished`` takes its leaves and gives
the claim to send, ``open`` answers the request at the end. What computes the leaves is
``flopmarket.bench.challenge``; who carries the messages is the worker's session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flopmarket.errors import Conflict, InvalidInput
from flopmarket.trust.benchmark import (
    BenchmarkOpening,
    BenchmarkPlan,
    BenchmarkStart,
    OpenedLeaf,
    OpeningRequest,
    StageClaim,
    challenge_digest,
    leaf_of,
    places,
    sampling_commitment,
    stage_key,
    strides_of,
)
from flopmarket.trust.encoding import digest
from flopmarket.trust.merkle import HashTree, MerkleProof, leaf_hash


@dataclass(frozen=True, slots=True)
class Stage:
    """What to compute next. ``strides`` is empty for a product."""

    number: int
    key: bytes
    strides: tuple[int, ...]

    @property
    def is_memory(self) -> bool:
        """A walk over memory, not a product."""
        return bool(self.strides)


class LeafTree:
    """A tree over leaves that are kept."""

    __slots__ = ("_tree", "leaves")

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.leaves = tuple(leaves)
        self._tree = HashTree(map(leaf_hash, self.leaves))

    @property
    def root(self) -> bytes:
        """Root of RFC 6962 over the leaves."""
        return self._tree.root

    def proof(self, index: int) -> MerkleProof:
        """The siblings of one leaf; MerkleError when there is none."""
        return self._tree.proof(index)


class BenchmarkProver:
    """One challenge. Raises Conflict when it is driven out of order."""

    def __init__(self, plan: BenchmarkPlan) -> None:
        self.plan = plan
        self._start: BenchmarkStart | None = None
        self._trees: list[LeafTree] = []
        self._roots: list[bytes] = []

    def start(self, start: BenchmarkStart) -> None:
        """Take the nonce. InvalidInput (BENCHMARK_OTHER_PLAN) when it is for another plan."""
        if self._start is not None:
            raise _out_of_order("the challenge has begun")
        if start.plan_digest != digest(self.plan):
            raise InvalidInput("the start is for another plan", code="BENCHMARK_OTHER_PLAN")
        self._start = start

    @property
    def stage(self) -> Stage | None:
        """What to compute now; None when every stage is done."""
        start, number = self._begun(), len(self._trees)
        if number == self.plan.shapes.stage_count:
            return None
        key = stage_key(start, number, self._roots)
        memory = number >= self.plan.shapes.product.stages
        return Stage(number, key, strides_of(key, self.plan.shapes.memory) if memory else ())

    def finished(self, leaves: Sequence[bytes]) -> StageClaim:
        """Commit to the present stage. InvalidInput (BENCHMARK_LEAVES) unless it is whole."""
        start, stage = self._begun(), self.stage
        if stage is None:
            raise _out_of_order("every stage is done")
        shapes = self.plan.shapes
        count, size = shapes.leaf_count(stage.number), shapes.leaf_bytes(stage.number)
        if len(leaves) != count or any(len(leaf) != size for leaf in leaves):
            raise InvalidInput(
                f"stage {stage.number} has {count} leaves of {size} bytes", code="BENCHMARK_LEAVES"
            )
        tree = LeafTree(leaves)
        self._trees.append(tree)
        self._roots.append(tree.root)
        return StageClaim(challenge_digest(start), stage.number, tree.root)

    def open(self, request: OpeningRequest) -> BenchmarkOpening:
        """The leaves of every place that the request leads to.

        InvalidInput (BENCHMARK_OTHER_SEED) when the plan committed to other places: a verifier
        that chooses them afterwards could look for a fault.
        """
        challenge = challenge_digest(self._begun())
        if self.stage is not None:
            raise _out_of_order("stages are missing")
        if request.challenge != challenge or self.plan.sampling_commitment != sampling_commitment(
            request.sampling_seed
        ):
            raise InvalidInput(
                "the request opens other places than the plan fixed", code="BENCHMARK_OTHER_SEED"
            )
        leaves = []
        for place in places(self.plan, request.sampling_seed):
            tree, index = self._trees[place.stage], leaf_of(self.plan, place)[0]
            leaves.append(OpenedLeaf(place.stage, tree.leaves[index], tree.proof(index)))
        return BenchmarkOpening(challenge, tuple(leaves))

    def _begun(self) -> BenchmarkStart:
        if self._start is None:
            raise _out_of_order("the challenge has not begun")
        return self._start


def _out_of_order(message: str) -> Conflict:
    return Conflict(message, code="BENCHMARK_ORDER")
