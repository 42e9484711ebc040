"""Named maxima of the engine. A graph, program or device request beyond one is a clear error."""

from __future__ import annotations

MAX_RANK = 16
"""Axes of one tensor."""

MAX_ELEMENTS = 2**40
"""Elements of one node's shape. Keeps every index in int64 and every byte count below 2^44."""

MAX_NODES = 100_000
"""Nodes of one program."""

MAX_SOURCES = 1_024
"""Sources of one CONCAT or LOOP (every other operation takes at most three)."""

MAX_EDGES = 2**20
"""Sources of all nodes of one program together."""

MAX_CONSTANT_BYTES = 16 * 2**20
"""All literal data of one program together; weights are inputs, not constants."""

MAX_PROGRAM_BYTES = 32 * 2**20
"""Canonical bytes of one program."""

MAX_TENSORS = 10_000
"""Named tensors of one kind (frozen, state, inputs, outputs) in one program."""

MAX_NAME_BYTES = 200
"""UTF-8 length of a tensor's name."""

MAX_LOOP_TURNS = 2**24
"""Turns of one LOOP."""

MAX_LOOP_DEPTH = 4
"""LOOPs inside each other."""

MAX_LOOP_WORK = 2**26
"""Nodes that the LOOPs of one program evaluate in a step, every turn counted."""

# ---------------------------------------------------------------- schedule and code generation

MIN_PACKED_DOT_FMAS = 32 * 1024
"""FMAs of one matrix of a DOT from which packing its operands pays."""

MAX_KERNEL_BUFFERS = 64
"""Buffer arguments of one kernel."""

MAX_PLAN_LAUNCHES = 50_000
"""Launches of one step."""

MAX_STEP_LAUNCHES = 2**22
"""Launches of one step with every turn of its loops counted."""

MAX_CACHED_PLANS = 64
"""Compiled one-shot plans that a process keeps (realise)."""

MAX_CACHED_PLAN_BYTES = 512 * 2**20
"""Device memory that those plans may keep between calls."""

MAX_HELD_BYTES = 4 * 2**30
"""Device memory that the graphs of loaded models, weights included, may keep between calls."""

# ---------------------------------------------------------------- front-end

MAX_TABLE_ELEMENTS = 2**25
"""Elements of one table of positions or weights that is made while a graph is being built."""

MAX_TRACED_CONSTANT_BYTES = 64 * 2**10
"""One realised tensor that a step may close over; it becomes a literal of the program."""
