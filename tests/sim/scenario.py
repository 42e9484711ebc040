"""One run: a market drawn from a seed, a phase of trouble, then a quiet one in which all ends."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from flopmarket.trust.audit_policy import RULES
from flopmarket.trust.dispute import DisputeWaits
from flopmarket.trust.sealing import Waits
from flopmarket_coordinator.parameters import Parameters
from tests.sim.bots import BOTS
from tests.sim.broken import Broken
from tests.sim.buyer import Buyer
from tests.sim.device import Card
from tests.sim.house import House
from tests.sim.laws import Laws
from tests.sim.network import CALM, Faults, Link
from tests.sim.people import START_US, buyer_session, people
from tests.sim.place import Place
from tests.sim.schedule import SECOND_US, Dice, Schedule, Trace
from tests.sim.shelf import Shelf
from tests.sim.step_laws import Look
from tests.sim.worker import Worker

PARAMETERS = Parameters(
    heartbeat_ms=20_000,
    lease_ttl_us=60 * SECOND_US,
    accept_ttl_us=20 * SECOND_US,
    presence_ttl_us=60 * SECOND_US,
    stall_us=15 * SECOND_US,
    decline_pause_us=10 * SECOND_US,
    bond_target_nano=4_000_000,
    max_job_refusals=1_000,
    house_disputes=False,
    held_us=600 * SECOND_US,
    quarantine_us=60 * SECOND_US,
    audit_rules=replace(
        RULES,
        full_streak=1,
        onboarding_streak=2,
        onboarding_ppm=500_000,
        bond_units=3,
        held_units=20,
        house_ppm=100_000,
        cross_ppm=200_000,
        canary_ppm=100_000,
    ),
    audit_waits=Waits(
        jitter_us=4 * SECOND_US,
        idle_us=15 * SECOND_US,
        answer_us=40 * SECOND_US,
        opening_us=15 * SECOND_US,
        worker_us=60 * SECOND_US,
    ),
    dispute_waits=DisputeWaits(answer_us=60 * SECOND_US),
)
"""Times are short, so that all of them pass in a run; a newcomer is trusted after a few segments,
so that audits are drawn and given to other workers."""
LEAST_US = 60 * SECOND_US
TROUBLE_US = 240 * SECOND_US
QUIET_US = 1_800 * SECOND_US


@dataclass(slots=True)
class Outcome:
    """How a run went. ``broken`` is None when every law held."""

    seed: int
    digest: str
    ticks: int
    seen: Counter[str]
    lines: list[str]
    broken: Broken | None = None
    simulated_us: int = 0
    guilty: list[str] = field(default_factory=list)
    draws: list[tuple[int, bool]] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)

    def story(self) -> str:
        """What to print about a broken law: where, what came before, how to see it again."""
        assert self.broken is not None
        told = "\n".join(self.lines)
        return (
            f"seed {self.seed}, tick {self.ticks}: {self.broken}\n"
            f"last events (seconds since the start):\n{told}\n"
            f"replay: make sim SEEDS={self.seed}"
        )


class Run:
    """A market drawn from ``seed``; whoever misbehaves is one of ``bots``."""

    honest: type[Worker] = Worker
    house_kind: type[House] = House

    def __init__(
        self,
        seed: int,
        parameters: Parameters = PARAMETERS,
        bots: tuple[type[Worker], ...] = BOTS,
    ) -> None:
        self.seed = seed
        self._bots = bots
        self.dice = dice = Dice(seed, "scenario")
        self.schedule = schedule = Schedule(START_US)
        self.trace = trace = Trace(schedule)
        everybody = people(parameters)
        rough = self._roughness()
        self.faults = Faults(
            loss=0.03 * rough,
            double=0.05 * rough,
            overtake=0.08 * rough,
            most_delay=0.05 + 0.5 * rough * dice.random(),
            late=0.04 * rough,
        )
        self.rough = rough
        self.quiet = False
        self.place = Place(
            schedule,
            trace,
            Dice(seed, "place"),
            image=everybody.image,
            key=everybody.coordinator,
            operator=everybody.operator,
            parameters=parameters,
            shelf=Shelf(),
        )
        self.house = self.house_kind(self.place, Dice(seed, "house"))
        self.house.dies = 0.05 * rough
        self.links: list[Link] = []
        self.buyers = [
            Buyer(
                self.place,
                self._link(f"buyer {at}"),
                trace,
                Dice(seed, f"buyer {at}"),
                f"buyer {at}",
                key=person.key,
                session=buyer_session(person),
            )
            for at, person in enumerate(everybody.buyers)
        ]
        self.workers = self._workers(everybody.devices)
        self.laws = Laws(self.place, {worker.key.key_id: worker for worker in self.workers})
        self._arrange()

    def _roughness(self) -> float:
        """How many faults there are: none, some, all."""
        return self.dice.choice((0.0, 0.3, 1.0))

    def _link(self, name: str) -> Link:
        link = Link(self.schedule, Dice(self.seed, f"link of {name}"), self.place, self.faults)
        self.links.append(link)
        return link

    def _workers(self, devices: Any) -> list[Worker]:
        """One or two that are honest and steady, some that are not."""
        dice = self.dice
        count = dice.randint(3, 5)
        chosen = dice.sample(range(len(devices)), count)
        if dice.chance(0.3):
            chosen[:2] = [len(devices) - 2, len(devices) - 1]  # two devices of one owner
            chosen = list(dict.fromkeys(chosen))
            count = len(chosen)
        kinds: list[type[Worker]] = [self.honest] * count
        for at in range(1, count):
            if dice.chance(0.5):
                kinds[at] = dice.choice(self._bots)
        workers = []
        for at, number in enumerate(chosen):
            person = devices[number]
            kind = kinds[at]
            name = f"{kind.__name__} {number}"
            unsteady = 0.0 if at == 0 else dice.choice((0.0, 0.05, 0.2)) * self.rough
            card = Card(
                step_us=dice.between_us(0.4, 1.6),
                # Bots are cheap, so that they get work.
                ask_nano_per_hour=dice.randint(200, 400) * 1_000_000 // (1 if kind.honest else 2),
                dies=unsteady,
            )
            worker = kind(
                self.place,
                self._link(name),
                self.trace,
                Dice(self.seed, name),
                name,
                key=person.key,
                account=person.account,
                card=card,
            )
            workers.append(worker)
        return workers

    # --- arrangement --------------------------------------------------------------------------

    def _arrange(self) -> None:
        """What will happen in the phase of trouble."""
        dice, schedule = self.dice, self.schedule
        for worker in self.workers:
            schedule.after(dice.between_us(0, 20), worker.start)
        self._wanted = dice.randint(2, 4)
        for _ in range(self._wanted):
            buyer = dice.choice(self.buyers)
            schedule.after(dice.between_us(0, 40), self._submit, buyer, self._shape())
        if dice.chance(0.25):
            schedule.after(dice.between_us(5, 60), dice.choice(self.buyers).cancel)
        if not self.rough:
            return
        self.place.crash_chance = 0.004 * self.rough
        for worker in self.workers:
            for _ in range(dice.randint(0, 2)):
                self._trouble(worker)
        if dice.chance(0.4):
            step_us = dice.between_us(-2, 2)
            schedule.after(dice.between_us(0, 80), self._step_coordinator, step_us)

    def _shape(self) -> dict[str, Any]:
        dice = self.dice
        segment_steps = dice.randint(2, 4)
        return {
            "stateless": dice.chance(0.3),
            "steps": segment_steps * dice.randint(2, 4) + dice.randint(0, 1),
            "segment_steps": segment_steps,
            "checkpoint_segments": dice.randint(1, 2),
        }

    def _submit(self, buyer: Buyer, shape: dict[str, Any]) -> None:
        buyer.submit(**shape)

    def _trouble(self, worker: Worker) -> None:
        dice, schedule = self.dice, self.schedule
        at_us = dice.between_us(5, 120)
        kind = dice.choice(("crash", "cut", "clock", "stream"))
        if kind == "crash":
            schedule.after(at_us, worker.crash, dice.between_us(0.5, 90))
        elif kind == "cut":
            schedule.after(at_us, self._cut, worker, dice.between_us(1, 100))
        elif kind == "clock":
            step_us = dice.choice((-1, 1)) * dice.between_us(1, 400)
            schedule.after(at_us, self._step_clock, worker, step_us)
            schedule.after(at_us + dice.between_us(5, 60), self._step_clock, worker, -step_us)
        else:
            schedule.after(at_us, self._break, worker)

    def _cut(self, worker: Worker, for_us: int) -> None:
        if self.quiet:
            return
        self.trace.tell(f"{worker.name} is cut off for {for_us} us")
        worker.link.cut = True
        self._break(worker)
        self.schedule.after(for_us, self._mend, worker)

    def _mend(self, worker: Worker) -> None:
        worker.link.cut = False

    def _break(self, worker: Worker) -> None:
        worker.break_stream()

    def _step_clock(self, worker: Worker, by_us: int) -> None:
        if self.quiet:
            return
        self.trace.tell(f"clock of {worker.name} steps by {by_us} us")
        worker.clock_offset_us += by_us

    def _step_coordinator(self, by_us: int) -> None:
        self.trace.tell(f"clock of the coordinator steps by {by_us} us")
        self.place.clock_offset_us += by_us

    # --- the two phases -----------------------------------------------------------------------

    def play(self) -> Outcome:
        """Trouble, then quiet; the first broken law ends it."""
        broken = None
        try:
            self.schedule.run_until(START_US + TROUBLE_US, self._nothing_left)
            self._calm()
            until_us = self.schedule.now_us + QUIET_US
            self.schedule.run_until(until_us, self._all_ended)
            self.laws.at_end()
        except Broken as error:
            broken = error
        except Exception as error:  # a bug of either side: the run is told like a broken law
            broken = Broken(f"crash/{type(error).__name__}", str(error)[:500])
            broken.__cause__ = error
        return Outcome(
            seed=self.seed,
            digest=self.trace.digest,
            ticks=self.place.ticks,
            seen=self.laws.seen,
            lines=list(self.trace.lines),
            broken=broken,
            simulated_us=self.schedule.now_us - START_US,
            guilty=[worker.name for worker in self.workers if worker.guilty],
            draws=self.laws.audits.draws,
            looks=self.laws.steps.looks,
        )

    def _calm(self) -> None:
        """No faults any more, and everybody who is not banned works honestly."""
        self.trace.tell("quiet from here on")
        self.quiet = True
        self.place.crash_chance = 0.0
        self.house.dies = 0.0
        for link in self.links:
            link.faults, link.cut = CALM, False
        for worker in self.workers:
            worker.reform()

    def _all_ended(self) -> bool:
        return self.submitted and not self.laws.unfinished()

    def _nothing_left(self) -> bool:
        """Trouble is of no use any more."""
        return self.schedule.now_us > START_US + LEAST_US and self._all_ended()

    @property
    def submitted(self) -> bool:
        """Whether the coordinator has every job that buyers wanted done."""
        return sum(len(buyer.jobs) for buyer in self.buyers) == self._wanted


def play(
    seed: int,
    prepare: Callable[[Run], None] | None = None,
    bots: tuple[type[Worker], ...] = BOTS,
) -> Outcome:
    """Play one seed. The collector of cycles waits until it is over."""
    from tests.sim.seeds import run_of  # it names what is derived from Run

    gc.disable()
    try:
        run = run_of(seed)(seed, bots=bots)
        if prepare is not None:
            prepare(run)
        return run.play()
    finally:
        gc.enable()
