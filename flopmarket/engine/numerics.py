"""Which law the generated kernels obey.

EXACT is profile FX1: the bits of every value are a function of the program and its inputs alone.
FAST keeps the meaning of every operation and leaves its details to the device: contraction, the
last places of quotients and roots, subnormals, the sign of zero, and on a GPU the order of sums.
Its bits depend on device, driver and generated source, but not on what ran before: the same program
on the same device gives the same bits again, which ``classes.py`` makes sure of before a device
offers it. NaN and infinities keep their meaning, and no float is added atomically.
"""

from __future__ import annotations

from enum import StrEnum


class Numerics(StrEnum):
    """The law of a program's kernels."""

    EXACT = "exact"
    FAST = "fast"


CONTRACT_OFF = "#pragma OPENCL FP_CONTRACT OFF\n"
CONTRACT_ON = "#pragma OPENCL FP_CONTRACT ON\n"

FAST_OPTIONS = ("-cl-mad-enable", "-cl-no-signed-zeros", "-cl-denorms-are-zero")
"""How FAST sources are built.

``-cl-fast-relaxed-math`` is not among them: it lets a compiler assume that there are no infinities,
which masks are made of, and cancel ``(x + c) - c``, by which the elementary functions round.
"""


def contraction_pragma(numerics: Numerics) -> str:
    """The first line of every source."""
    return CONTRACT_OFF if numerics is Numerics.EXACT else CONTRACT_ON
