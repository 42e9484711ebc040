"""Admission: may this device offer exact mode? (docs/numerics.md §4)

``admit`` asks the probes of :mod:`flopmarket.engine.probes` and then computes golden graphs, shapes
on both sides of every threshold of profile FX1, with the code generator as it stands; the reference
says what the bits must be. It runs before a worker's first exact offer and again after a change of
driver or engine. A device that fails anything is fast-only, and the report says why.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flopmarket.engine import dtypes, functional, graph, nn, optim, probes, reference, trace
from flopmarket.engine.errors import EngineError
from flopmarket.engine.exact import PROFILE
from flopmarket.engine.graph import Node
from flopmarket.engine.probes import ProbeResult
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.runtime.open import open_target
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.runtime.prepared import Prepared
from flopmarket.engine.runtime.replay import CompileOptions
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]
Golden = tuple[list[Node], dict[Node, Array]]
"""Outputs, and a value for each INPUT below them."""

_F32 = dtypes.float32


@dataclass(frozen=True, slots=True)
class AdmissionReport:
    """What admission found.

    ``digest`` is 64 hex digits over profile, probes and golden bits: equal on all devices that are
    admitted by one version of the engine. ``contract_helper`` says how FMA is rendered here.
    """

    admitted: bool
    profile: str
    probes: tuple[ProbeResult, ...]
    digest: str
    contract_helper: bool

    @property
    def failures(self) -> tuple[ProbeResult, ...]:
        """What did not pass: the reason to tell the device's owner."""
        return tuple(probe for probe in self.probes if not probe.passed)


def admit(device: Device) -> AdmissionReport:
    """Probe an open device. Never raises for what the device does wrong: that is in the report."""
    results = probes.run_probes(device)
    helper = probes.contraction_is_exact(device)
    results.append(_has_fp64(device))
    digest = hashlib.sha256(f"flopmarket admission {PROFILE}\0".encode())
    for name, (outputs, leaves) in golden_graphs().items():
        result, observed = _golden(device, name, outputs, leaves, contract_helper=helper)
        results.append(result)
        digest.update(f"{name}\0".encode())
        for array in observed:
            digest.update(array.tobytes())
    for result in results:
        digest.update(f"{result.name}={result.passed}\0".encode())
    admitted = all(result.passed for result in results)
    return AdmissionReport(admitted, PROFILE, tuple(results), digest.hexdigest(), helper)


def _has_fp64(device: Device) -> ProbeResult:
    detail = "" if device.info.has_fp64 else "exact division and square root need float64"
    return ProbeResult("float64 arithmetic", device.info.has_fp64, detail)


def _golden(
    device: Device,
    name: str,
    outputs: Sequence[Node],
    leaves: dict[Node, Array],
    *,
    contract_helper: bool,
) -> tuple[ProbeResult, list[Array]]:
    nodes = canonicalise(outputs)
    expected = reference.evaluate(nodes, leaves)
    title = f"golden: {name}"
    try:
        target = open_target(device, contract_helper=contract_helper)
        prepared = Prepared(nodes, device, target, CompileOptions(poison=True))
        try:
            values = prepared.run({n: dtypes.canonical(a) for n, a in leaves.items()})
        finally:
            prepared.release()
    except EngineError as error:
        return ProbeResult(title, False, str(error)[:300]), []
    observed = [dtypes.canonical(values[node]) for node in nodes]
    for node, want, have in zip(nodes, expected, observed, strict=True):
        result = probes.compare(title, want, have)
        if not result.passed:
            shapes = ", ".join(str(list(source.shape)) for source in node.src)
            detail = f"{node.op.name}({shapes}): {result.detail}"
            return ProbeResult(title, False, detail), observed
    return ProbeResult(title, True, f"{len(nodes)} tensors"), observed


# ---------------------------------------------------------------- golden graphs


def golden_graphs() -> dict[str, Golden]:
    """Graphs by name. Small enough for the reference, large enough to cross every threshold."""
    return {
        "arithmetic": _arithmetic(),
        "conversions": _conversions(),
        "dot": _dots(),
        "integer dot": _integer_dots(),
        "reduce": _reductions(),
        "functions": _functions(),
        "training step": _training_step(),
    }


class _Leaves:
    """Named leaves with seeded values."""

    def __init__(self, prefix: str, seed: int) -> None:
        self._prefix = prefix
        self._rng = np.random.default_rng(seed)
        self.values: dict[Node, Array] = {}

    def add(self, array: Array) -> Node:
        dtype = dtypes.from_numpy(array.dtype)
        node = graph.input_("buffer", f"{self._prefix}{len(self.values)}", dtype, array.shape)
        self.values[node] = dtypes.canonical(array)
        return node

    def normal(self, *shape: int) -> Node:
        return self.add(self._rng.standard_normal(shape).astype(np.float32))

    def integers(self, dtype: str, *shape: int) -> Node:
        info = np.iinfo(dtype)
        return self.add(self._rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True))


def _arithmetic() -> Golden:
    leaves = _Leaves("arithmetic", 11)
    a, b, c, d = (leaves.add(array) for array in probes.adversarial(1024, seed=3))
    minus = graph.filled(-1.0, _F32, a.shape)
    product = graph.mul(a, b)
    outputs = [
        graph.fma(a, b, c),
        graph.fma(a, minus, c),
        graph.add(product, graph.mul(c, d)),
        # The forms that stay after canonicalisation, which a compiler might still contract.
        graph.add(graph.where(graph.cmp("lt", a, d), product, c), d),
        graph.add(
            graph.reshape(
                graph.mul(graph.reshape(a, (32, 32)), graph.reshape(b, (32, 32))), a.shape
            ),
            c,
        ),
        graph.div(a, b),
        graph.sqrt(a),
        graph.max_(a, c),
        graph.mul(a, graph.filled(0.0, _F32, a.shape)),
        graph.mul(a, graph.filled(1e-40, _F32, a.shape)),
        graph.fma(graph.filled(0.1, _F32, a.shape), graph.filled(0.1, _F32, a.shape), c),
        graph.bitcast(graph.add(a, c), dtypes.uint32),
    ]
    x, y = leaves.integers("int32", 512), leaves.integers("int32", 512)
    small = graph.bit(
        "and", graph.bitcast(y, dtypes.uint32), graph.filled(63, dtypes.uint32, (512,))
    )
    unsigned = graph.bitcast(x, dtypes.uint32)
    outputs += [
        graph.add(x, y),
        graph.mul(x, y),
        graph.div(x, y),
        graph.div(x, graph.cast(small, dtypes.int32)),
    ]
    outputs += [graph.bit(kind, unsigned, small) for kind in ("shl", "shr", "xor")]
    return outputs, leaves.values


def _conversions() -> Golden:
    leaves = _Leaves("conversions", 12)
    edges = [0.5, -0.5, 127.5, -128.5, 255.5, 2.0**31, -(2.0**31), 2.0**32, 2.0**63, 2.0**64]
    edges += [np.nan, np.inf, -np.inf, -0.0, 1e-40, 2147483520.0, 16777217.0]
    floats = np.concatenate([np.array(edges), np.ldexp(np.linspace(-1, 1, 239), 40)])
    x = leaves.add(floats.astype(np.float32))
    kinds = [dtype for dtype in dtypes.DTYPES if dtype is not _F32]
    outputs = [graph.cast(x, dtype) for dtype in kinds]
    for dtype in kinds[1:]:
        source = leaves.integers(dtype.name, 256)
        outputs += [graph.cast(source, _F32), graph.cast(source, dtypes.bool_)]
        outputs += [graph.cast(source, other) for other in kinds[1:] if other is not dtype]
    return outputs, leaves.values


def _dots() -> Golden:
    leaves = _Leaves("dot", 13)
    outputs = []
    shapes = [(1, 1, 1), (2, 511, 3), (3, 512, 9), (33, 513, 17), (31, 33, 31), (65, 64, 65)]
    for rows, terms, columns in [*shapes, (4, 1025, 32), (40, 255, 63), (48, 257, 64)]:
        a, b = leaves.normal(1, rows, terms), leaves.normal(1, terms, columns)
        outputs.append(graph.dot(a, b))
    a, b = leaves.normal(2, 5, 600), leaves.normal(2, 600, 7)
    valid = leaves.add(np.array([[0, 1, 511, 512, 513], [600, 700, -1, 64, 2]], dtype=np.int32))
    outputs.append(graph.dot(a, b, valid))
    return outputs, leaves.values


def _integer_dots() -> Golden:
    leaves = _Leaves("integer", 14)
    outputs = []
    for left, right in (("int8", "int8"), ("uint8", "int8"), ("int32", "int32")):
        a, b = leaves.integers(left, 1, 17, 130), leaves.integers(right, 1, 130, 33)
        outputs.append(graph.dot(a, b))
    return outputs, leaves.values


def _reductions() -> Golden:
    leaves = _Leaves("reduce", 15)
    outputs = []
    for count in (1, 2, 31, 32, 33, 63, 64, 65, 4095, 4096, 4097, 8193):
        x, y = leaves.normal(3, count), leaves.normal(3, count)
        outputs += [graph.reduce("sum", x, (1,)), graph.reduce("sumprod", x, (1,), y)]
        outputs.append(graph.reduce("max", x, (1,)))
    tall = leaves.normal(4097, 17)
    outputs += [graph.reduce(kind, tall, (0,)) for kind in ("sum", "min", "prod")]
    image = leaves.normal(5, 9, 64)
    outputs.append(graph.reduce("sum", image, (0, 2)))
    return outputs, leaves.values


def _functions() -> Golden:
    leaves = _Leaves("functions", 16)
    scores = leaves.normal(9, 257)
    pixels, kernel, bias = leaves.normal(2, 6, 11, 11), leaves.normal(8, 6, 3, 3), leaves.normal(8)
    scale, shift = leaves.normal(257), leaves.normal(257)
    x = Tensor(scores)
    outputs = [
        functional.softmax(x, 1),
        functional.layer_norm(x, (257,), Tensor(scale), Tensor(shift)),
        functional.gelu(x),
        functional.tanh(x),
        functional.conv2d(Tensor(pixels), Tensor(kernel), Tensor(bias), stride=2, padding=1),
    ]
    return [tensor.node for tensor in outputs], leaves.values


def _training_step() -> Golden:
    rng = np.random.default_rng(17)
    model = nn.Sequential(nn.Linear(33, 65), nn.ReLU(), nn.Linear(65, 10))
    step = trace.training_step(model, functional.cross_entropy, optim.Adam(lr=1e-3))
    shapes = {name: value.shape for name, value in step.init(1).items()}
    state = {
        n: rng.random(shape, dtype=np.float32) * np.float32(0.1) for n, shape in shapes.items()
    }
    batch = {
        "x": rng.standard_normal((32, 33)).astype(np.float32),
        "y": rng.integers(0, 10, 32).astype(np.int32),
    }
    program = trace.trace(step, state, batch)
    leaves: dict[Node, Array] = {}
    for leaf in program.leaves:
        kind, name = leaf.arg
        leaves[leaf] = np.asarray(state[name] if kind == "state" else batch[name])
    return [*program.state_nodes, *program.output_nodes], leaves
