"""The constants of numerics profile FX1 and the name they are frozen under.

A program's digest covers :data:`PROFILE`, so two versions of these numbers can never be mistaken
for each other. Nothing here is tunable: a device either computes these bits or is fast-only.
"""

from __future__ import annotations

DOT_CHUNK = 256
"""Terms of one FMA chain of DOT before its result is added to the total (docs/numerics.md §2)."""

REDUCE_LANES = 64
"""Interleaved lanes of a REDUCE block."""

REDUCE_BLOCK = 4096
"""Elements of one REDUCE block; block results are folded by the same rule."""

PROFILE = f"FX1-d{DOT_CHUNK}-l{REDUCE_LANES}-b{REDUCE_BLOCK}"
"""Identifier of the profile, part of every program digest and of every offer."""

ADMISSION = 2
"""Revision of the probes and golden programs. What was admitted by another is admitted anew."""
