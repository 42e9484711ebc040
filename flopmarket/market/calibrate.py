"""What a device really delivers, against what its benchmark promised: a running factor.

Every settled segment gives one ratio, measured time over the roofline's. It counts for three
families of the device, from the closest to the widest: this very program, programs of the same
headline class and about the same step time, and everything it ran. A program's factor is the lower
median of its last :data:`WINDOW` ratios and of the factor around it; a wider family's that of its
programs, one ratio each, and twice the factor around it (1 around the widest). It begins at what is
known; one strange segment moves a program nowhere, and one or two strange programs no family; a
device that changed for good is believed after half a window.

A device that lies about its times moves its own factors alone, and within their bounds. Slower
makes its own next offer dearer, which a higher ask would do as well; faster makes it cheaper. The
coordinator counts no report beyond its own clock (:func:`believed_us`), and a running lease keeps
the terms it began with.

All integers; ratios and factors are parts per million.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from flopmarket.market.work import Promise

ONE_PPM = 1_000_000
LEAST_PPM = ONE_PPM // 32
MOST_PPM = ONE_PPM * 32
"""Bounds of a ratio, and so of a factor. Wide enough for programs that are nothing but launches on
a processor that others use as well (16 times the benchmark was seen)."""

WINDOW = 31
"""Ratios remembered of one family."""

PROGRAM = "program/"
"""Begins the families of single programs, of which only so many are remembered."""
SETUP = "setup"
"""Names the family of what comes before the first step, transfer and kernel builds, and ends those
of single programs."""
AUDIT = "audit"
"""The family of audits: from a segment's commitment to its verdict, over its own time."""
LATE = "late"
"""The family of measured times over *calibrated* predictions: how far a finish may be off."""

PROMISED = "promised"
"""No real family: the lowest factor that an unfinished job was promised, where that is lower than
every other. It and the one for setups keep :attr:`Factors.least_ppm` a bound for all jobs."""
PROMISED_SETUP = f"{PROMISED}/{SETUP}"

_DEVICE = "device"
_BUCKET_BITS = 3
_NAME_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Running:
    """One family's memory: its last ratios, oldest first, and the factor they make.

    The closest family has one ratio a delivery, named "". A wider one has one a program, named by
    it: that of the program's own deliveries, so that a busy program does not speak for the others.
    """

    ratios_ppm: tuple[tuple[str, int], ...] = ()
    factor_ppm: int = ONE_PPM


@dataclass(frozen=True)
class Factors:
    """The factors of one device by family. Immutable; :data:`NO_FACTORS` of a new device."""

    ppm_by_family: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def ppm(self, families: Sequence[str]) -> int:
        """The factor of the closest family that is known; ``families`` come widest first."""
        for family in reversed(families):
            if family in self.ppm_by_family:
                return self.ppm_by_family[family]
        return ONE_PPM

    def with_promise(self, promise: Promise) -> Factors:
        """The same, bounded from below by what jobs were promised."""
        mapping = dict(self.ppm_by_family)
        if promise.step_ppm < self.least_ppm:
            mapping[PROMISED] = promise.step_ppm
        setups = [ppm for family, ppm in mapping.items() if family.endswith(SETUP)]
        if promise.setup_ppm < min([ONE_PPM, *setups]):
            mapping[PROMISED_SETUP] = promise.setup_ppm
        return Factors(mapping)

    @cached_property
    def least_ppm(self) -> int:
        """No factor for a step's time is lower: a bound for searches. (What is known of any family
        is known of the widest too, so an unknown family has one of these.)"""
        known = (
            ppm
            for family, ppm in self.ppm_by_family.items()
            if family != LATE and not family.endswith(SETUP)
        )
        return min(known, default=ONE_PPM)


NO_FACTORS = Factors()


def step_families(program: str, work_class: str, step_picoseconds: int) -> tuple[str, ...]:
    """Families of a step's time, widest first; ``step_picoseconds`` are the roofline's."""
    bucket = step_picoseconds.bit_length() // _BUCKET_BITS
    families = (_DEVICE, f"{work_class or 'none'}/{bucket}")
    return (*families, f"{PROGRAM}{program}") if program else families


def setup_families(program: str) -> tuple[str, ...]:
    """Families of a setup's time, widest first. A program that ran before has its kernels."""
    return (SETUP, f"{PROGRAM}{program}/{SETUP}") if program else (SETUP,)


def scaled(value: int, factor_ppm: int) -> int:
    """``value`` times a factor, rounded up."""
    return -(-value * factor_ppm // ONE_PPM)


def ratio_ppm(measured: int, predicted: int) -> int:
    """``measured / predicted`` within the bounds; both in the same unit, ``predicted`` above 0."""
    return min(MOST_PPM, max(LEAST_PPM, measured * ONE_PPM // predicted))


def believed_us(reported_us: int, elapsed_us: int, believed_before_us: int) -> int:
    """What is believed of a report: at most the coordinator's own time that is not used up.

    ``elapsed_us`` is since the lease began, ``believed_before_us`` the sum of what was believed
    of it before. A sum, since segments are computed while earlier ones are uploaded.
    """
    return max(0, min(reported_us, elapsed_us - believed_before_us))


def learn(
    known: Mapping[str, Running], families: Sequence[str], measured: int, predicted: int
) -> dict[str, Running]:
    """The families, widest first, after one more delivery."""
    *wide, closest = families
    around_ppm = known.get(wide[-1], Running()).factor_ppm if wide else ONE_PPM
    ratio = ratio_ppm(measured, predicted)
    ratios = (*known.get(closest, Running()).ratios_ppm, ("", ratio))[-WINDOW:]
    own = tuple(value for _, value in ratios)
    changed = {closest: Running(ratios, lower_median((*own, around_ppm)))}
    name = closest.removesuffix(f"/{SETUP}")[-_NAME_LENGTH:]
    around_ppm = ONE_PPM
    for family in wide:
        others = [item for item in known.get(family, Running()).ratios_ppm if item[0] != name]
        votes = (*others, (name, lower_median(own)))[-WINDOW:]
        values = [value for _, value in votes]
        around_ppm = lower_median((*values, around_ppm, around_ppm))
        changed[family] = Running(votes, around_ppm)
    return changed


def restated(known: Mapping[str, Running], was: int, now: int) -> dict[str, Running]:
    """What was learned against rates that a new proof moved from ``was`` to ``now``.

    A rate that fell has part of the slowness in it now that deliveries had to correct before, so
    what was above one falls with it, to one at the least; a rate that rose leaves predictions where
    deliveries put them. What was below one is the roofline's own error and stays.
    """

    def moved(ppm: int) -> int:
        return ppm if ppm <= ONE_PPM else min(MOST_PPM, max(ONE_PPM, ppm * now // was))

    return {
        family: Running(
            tuple((name, moved(ppm)) for name, ppm in item.ratios_ppm), moved(item.factor_ppm)
        )
        for family, item in known.items()
        if family != LATE and not family.endswith(SETUP)
    }


def lower_median(values: Sequence[int]) -> int:
    """The middle one, and the lower of two middle ones; ``values`` has at least one."""
    return sorted(values)[(len(values) - 1) // 2]


def quantile(values: Sequence[int], percent: int) -> int:
    """The nearest-rank quantile: the least value that ``percent`` % of ``values`` do not pass."""
    rank = -(-len(values) * percent // 100)
    return sorted(values)[max(1, rank) - 1]
