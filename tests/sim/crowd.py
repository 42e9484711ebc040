"""``python -m tests.sim.crowd --workers 10000``: a large market for one simulated hour.

Real application, real session machines, no faults; heartbeats every ten seconds, those of one tick
joined into one command. Ends with the coordinator's own checker over everything.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

from tests.sim.buyer import Buyer
from tests.sim.device import Card
from tests.sim.house import House
from tests.sim.network import CALM, Link
from tests.sim.people import START_US, buyer_session, people
from tests.sim.place import Place
from tests.sim.scenario import PARAMETERS
from tests.sim.schedule import SECOND_US, Dice, Schedule, Trace
from tests.sim.shelf import Shelf
from tests.sim.worker import Worker

CROWD = replace(
    PARAMETERS,
    heartbeat_ms=10_000,
    lease_ttl_us=300 * SECOND_US,
    presence_ttl_us=60 * SECOND_US,
    session_ttl_us=2 * 3_600 * SECOND_US,
)


def play(count: int, seconds: int, jobs: int) -> list[str]:
    """Run the market; lines about it."""
    began = time.process_time()
    everybody = people(CROWD, count)
    registered = time.process_time()
    schedule = Schedule(START_US)
    trace = Trace(schedule)
    place = Place(
        schedule,
        trace,
        Dice(0, "place"),
        image=everybody.image,
        key=everybody.coordinator,
        operator=everybody.operator,
        parameters=CROWD,
        shelf=Shelf(),
    )
    place.tick_us = SECOND_US
    House(place, Dice(0, "house"))
    dice = Dice(0, "crowd")
    workers = [
        Worker(
            place,
            Link(schedule, Dice(0, f"link {at}"), place, CALM),
            trace,
            Dice(0, f"worker {at}"),
            f"worker {at}",
            key=person.key,
            account=person.account,
            card=Card(ask_nano_per_hour=dice.randint(200, 400) * 1_000_000),
        )
        for at, person in enumerate(everybody.devices[:count])
    ]
    for worker in workers:
        schedule.after(dice.between_us(0, 60), worker.start)
    buyer = everybody.buyers[0]
    shop = Buyer(
        place,
        Link(schedule, Dice(0, "link of the buyer"), place, CALM),
        trace,
        Dice(0, "buyer"),
        "buyer",
        key=buyer.key,
        session=buyer_session(buyer),
    )
    for _ in range(jobs):
        schedule.after(dice.between_us(60, seconds * 0.9), shop.submit)
    schedule.run_until(START_US + seconds * SECOND_US)
    played = time.process_time()
    findings = place.read(place.application.check)
    (present,) = place.raw.execute("SELECT count(*) FROM worker WHERE connected").fetchone()
    (ended,) = place.raw.execute("SELECT count(*) FROM job WHERE state = 'succeeded'").fetchone()
    assert not findings, findings
    assert present == count, f"{present} workers are connected"
    return [
        f"{count} workers, {seconds} simulated seconds, {place.ticks} ticks",
        f"{place.beats} heartbeats, {ended} of {jobs} jobs succeeded",
        f"registering {registered - began:.0f} s, the market {played - registered:.0f} s",
    ]


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.crowd", description=__doc__)
    parser.add_argument("--workers", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=3_600)
    parser.add_argument("--jobs", type=int, default=200)
    given = parser.parse_args()
    for line in play(given.workers, given.seconds, given.jobs):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
