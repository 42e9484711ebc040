"""Named maxima and constants of quantisation."""

from __future__ import annotations

MAX_KEPT_TRACES = 8
"""Graphs, by the shapes of their inputs, that a quantised model keeps."""

MAX_SAMPLES_PER_BATCH = 2**15
"""Values of one activation that one calibration batch contributes to the choice of its range."""

MAX_SAMPLES = 2**18
"""Values of one activation that all batches contribute together."""

MAX_GROUP = 4_096
"""Weights under one scale at 4 bits."""

PERCENTILE = 99.99
"""Share, in percent, of the magnitudes that the range "percentile" holds."""

CLIP_RATIOS = tuple(round(1.0 - 0.02 * step, 2) for step in range(36))
"""Shares of the full range that "mse" tries, the full range first."""

GROUP_RATIOS = tuple(round(1.0 - 0.04 * step, 2) for step in range(10))
"""The same for the scale of a group of 4-bit weights."""

MAX_LAYER_NAME_BYTES = 150
"""Of the name of a weight in a layer's own: room is left for what its codes and scales add."""
