"""Products that reach every tile of a GPU, which golden programs are too small for.

``codegen/tiled.py`` takes larger tiles where there are groups enough to fill the device. Here the
device is said to have one compute unit, so that a few hundred rows reach the largest, over more
chunks than one. Admission compares them with the reference, which takes a part of a second; there
is no digest in a file, because no CPU runs these kernels. Class admission runs them twice.
"""

from __future__ import annotations

from dataclasses import replace

from flopmarket.engine import dtypes, graph
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.golden import suite
from flopmarket.engine.golden.suite import Golden, Leaves
from flopmarket.engine.probes import compare
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.runtime.prepared import Prepared
from flopmarket.engine.runtime.resident import CompileOptions

TILES = "tiles"
SHAPES = ((130, 300, 140), (66, 513, 130), (64, 257, 64))
"""(rows, terms, columns): a tile of 128, of 64 and of 32, ragged and whole."""


def program() -> Golden:
    """The products, of float32 and of bfloat16."""
    g = Leaves(TILES, 41)
    for dtype in (dtypes.float32, dtypes.bfloat16):
        for rows, terms, columns in SHAPES:
            a, b = g.bell(1, rows, terms, dtype=dtype), g.bell(1, terms, columns, dtype=dtype)
            g.give(f"{dtype} {rows}x{terms}x{columns}", graph.dot(a, b))
    return g.golden()


def reached(target: Target) -> Target:
    """The target under which the products reach every tile."""
    return replace(target, compute_units=1)


def wrong_tile(device: Device, target: Target) -> str:
    """Which product differs from the reference, and where; empty where none does.

    Raises EngineError where they cannot be built or run.
    """
    products = program()
    prepared = Prepared(products.nodes, device, reached(target), CompileOptions(poison=True))
    try:
        values = prepared.run(products.leaves)
    finally:
        prepared.release()
    for label, node, want in zip(
        products.labels, products.nodes, suite.expected(products), strict=True
    ):
        found = compare(label, want, values[node])
        if not found.passed:
            return f"the product {found.name} in tiles: {found.detail}"
    return ""
