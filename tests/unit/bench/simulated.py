"""Devices made of a timing model: Hockney's rate r_inf / (1 + n_half / n) by class of work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flopmarket.bench.workloads import Sizes, Workload
from flopmarket.engine.cost import WORK_CLASSES, Cost
from flopmarket.engine.errors import EngineError
from flopmarket.engine.program import Program
from flopmarket.engine.runtime.session import Array, Session

SMALL = Sizes(
    gemm=128,
    elements=1 << 13,
    copy_elements=1 << 17,
    reduce_rows=2,
    chain=64,
    launches=16,
    network=32,
)
"""Sizes whose largest doublings still have small tensors."""


@dataclass
class Card:
    """A device and its clock. Rates a second, times in seconds, memory in bytes.

    ``half`` is n_half: the operations of one launch at which half of the rate is reached.
    """

    rates: Mapping[str, float]
    half: Mapping[str, float]
    bandwidth: float
    launch: float
    host: float
    build: float = 0.0
    memory_bytes: int = 1 << 62
    now: float = 0.0
    opened: list[Workload] = field(default_factory=list)

    def monotonic(self) -> float:
        """The clock that steps and builds advance."""
        return self.now

    def open(self, workload: Workload) -> Session:
        """A session of this device; every one builds its kernels."""
        self.opened.append(workload)
        return Simulated(self, workload.program)

    def seconds(self, cost: Cost) -> float:
        """What a step of such work takes."""
        computing = sum(
            (count + cost.launches * self.half[name]) / self.rates[name]
            for name, count in cost.flops.items()
            if count
        )
        moving = cost.bytes_moved / self.bandwidth
        return self.host + cost.launches * self.launch + max(computing, moving)

    def lengths(self, kind: str) -> list[int]:
        """Counted work of every step that was measured of a kind, in their order."""
        return [workload.counted for workload in self.opened if workload.kind == kind]


class Simulated:
    """A session that computes nothing and takes its time."""

    def __init__(self, card: Card, program: Program) -> None:
        self._card = card
        self.program = program

    def load(self, frozen: Mapping[str, Array], state: Mapping[str, Array]) -> None:
        """Allocate, which fails beyond the card's memory; build."""
        if self.program.cost.peak_memory_bytes > self._card.memory_bytes:
            raise EngineError("allocation failed", code="DEVICE_MEMORY", retryable=True)
        self._card.now += self._card.build

    def step(self, inputs: Mapping[str, Array], *, seed: int, step: int) -> dict[str, Array]:
        """Let a step's time pass."""
        self._card.now += self._card.seconds(self.program.cost)
        return {}

    def read_state(self) -> dict[str, Array]:
        """Nothing."""
        return {}

    def close(self) -> None:
        """Nothing."""


def card(
    rate: float,
    half: float,
    *,
    launch: float = 5e-6,
    host: float = 40e-6,
    build: float = 0.1,
    memory_bytes: int = 1 << 62,
) -> Card:
    """A device that is alike in all classes of work and has a tenth of a byte for an operation."""
    return Card(
        rates=dict.fromkeys(WORK_CLASSES, rate),
        half=dict.fromkeys(WORK_CLASSES, half),
        bandwidth=rate / 10,
        launch=launch,
        host=host,
        build=build,
        memory_bytes=memory_bytes,
    )
