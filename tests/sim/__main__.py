"""``python -m tests.sim``: play seeds, or every mutant until it is caught.

``--seeds 17`` or ``--seeds 0-199``; ``--mutants [NAME ...]`` plays each change of
:mod:`tests.sim.mutants` against up to ``--most`` seeds. ``--cheats``, ``--classes``, ``--steps``
and ``--flaky`` compare the books of ``--runs`` pairs (:mod:`tests.sim.cheats` and the like). Exit
code 1 when a law broke, a mutant lived, or somebody earned what he should not.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.sim import cheats, class_cheats, flaky, step_cheats
from tests.sim.audit_laws import audit_band
from tests.sim.mutants import MUTANTS
from tests.sim.planting import Caught, hunt
from tests.sim.scenario import play
from tests.sim.step_laws import Look, look_band


def seeds_of(text: str) -> range:
    """``17`` or ``0-199``."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def play_all(seeds: range, *, verbose: bool) -> int:
    """Play seeds and print what happened; 1 when a law broke."""
    began, seen, ticks, simulated = time.process_time(), Counter[str](), 0, 0
    draws: list[tuple[int, bool]] = []
    looks: list[Look] = []
    for seed in seeds:
        outcome = play(seed)
        if verbose:
            print(f"seed {seed}: trace {outcome.digest}, {outcome.ticks} ticks", flush=True)
        if outcome.broken is not None:
            print(outcome.story())
            return 1
        seen += outcome.seen
        ticks += outcome.ticks
        simulated += outcome.simulated_us
        draws += outcome.draws
        looks += outcome.looks
    spent = time.process_time() - began
    least, most, drawn = audit_band(draws)
    print(f"{len(seeds)} seeds, {ticks} ticks, {simulated / 3.6e9:.1f} simulated hours")
    print(f"{spent:.1f} s of processor time, {spent / len(seeds):.3f} s a seed")
    for name, count in sorted(seen.items()):
        print(f"  {count:6d}  {name}")
    print(f"drawn {drawn} of {len(draws)} commitments, chance explains {least:.0f} to {most:.0f}")
    if not least <= drawn <= most:
        print("the rate of audits is outside its band")
        return 1
    least, most, met = look_band(looks)
    explained = f"chance explains {least:.0f} to {most:.0f}"
    print(f"{met} of {len(looks)} draws about wrong segments met a wrong step, {explained}")
    if not least <= met <= most:
        print("wrong steps are met more or less often than chance explains")
        return 1
    return 0


def hunt_all(names: list[str], most: int) -> int:
    """Hunt mutants and print the table; 1 when one lived."""
    lived = 0
    for mutant in MUTANTS:
        if names and mutant.name not in names:
            continue
        caught: Caught | None = hunt(mutant, range(most))
        if caught is None:
            lived += 1
            print(f"| {mutant.name} | **lives** | {most} |", flush=True)
        else:
            print(f"| {mutant.name} | {caught.law} | {caught.seeds} |", flush=True)
    return 1 if lived else 0


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", default="0-19")
    parser.add_argument("--mutants", nargs="*")
    parser.add_argument("--most", type=int, default=200)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--cheats", action="store_true")
    parser.add_argument("--classes", action="store_true")
    parser.add_argument("--steps", action="store_true")
    parser.add_argument("--flaky", action="store_true")
    parser.add_argument("--runs", type=int, default=20)
    given = parser.parse_args()
    if given.cheats:
        return cheats.report(given.runs)
    if given.classes:
        return class_cheats.report(given.runs)
    if given.steps:
        return step_cheats.report(given.runs)
    if given.flaky:
        return flaky.report(given.runs)
    if given.mutants is not None:
        return hunt_all(given.mutants, given.most)
    return play_all(seeds_of(given.seeds), verbose=given.verbose)


if __name__ == "__main__":
    sys.exit(main())
