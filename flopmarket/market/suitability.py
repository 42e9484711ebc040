"""What a device is good for, by its own stated figures: training, inference, or both.

Training is float arithmetic of every kind with room for state and gradients; inference lives on
integer products and on memory bandwidth. A hint for people who look for offers; nothing is priced
or matched by it.
"""

from __future__ import annotations

from collections.abc import Mapping

TRAINING = "training"
INFERENCE = "inference"
USES = (TRAINING, INFERENCE)

TRAINING_CLASSES = ("dot-f32", "elementwise-f32", "reduce-f32")
TRAINING_MEMORY_BYTES = 4 << 30
INFERENCE_BANDWIDTH_BYTES_PER_SECOND = 100 * 10**9


def suited_for(
    rates: Mapping[str, int], memory_bytes: int, bandwidth_bytes_per_second: int
) -> tuple[str, ...]:
    """The uses of :data:`USES` that the figures of a device (a second) speak for."""
    trains = memory_bytes >= TRAINING_MEMORY_BYTES and all(
        rates.get(name, 0) for name in TRAINING_CLASSES
    )
    integer, single = rates.get("dot-int", 0), rates.get("dot-f32", 0)
    infers = bool(integer or single) and (
        integer > single or bandwidth_bytes_per_second >= INFERENCE_BANDWIDTH_BYTES_PER_SECOND
    )
    return tuple(use for use, suits in zip(USES, (trains, infers), strict=True) if suits)
