"""What a quote needs of a job: its program and numbers, none of its tensors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JobForm:
    """A job before its data exist. ``program`` are canonical bytes.

    ``input_bytes`` is what a worker fetches before the first step: frozen tensors, state and data.
    """

    program: bytes
    steps: int
    segment_steps: int
    input_bytes: int
