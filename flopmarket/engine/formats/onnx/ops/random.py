"""Random operators over the engine's Philox generator.

Numbers come from the scope that the model runs in: the job's seed and step, and the ordinal of the
node. A ``seed`` attribute takes the place of the seed, so that such a node draws the same numbers
in every job, and other ones at every step.
"""

from __future__ import annotations

import struct

from flopmarket.engine import graph, macros, random
from flopmarket.engine.compose import broadcast_to, first_extreme, fold, like
from flopmarket.engine.dtypes import DType, float32
from flopmarket.engine.formats.onnx.ops.cast import engine_type
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.graph import Node, Shape
from flopmarket.engine.tensor import Tensor


def _stream(node: OpNode) -> tuple[Node, Node, random.Ordinal]:
    """(seed, step, ordinal) of this node's numbers; a ``seed`` attribute replaces the seed."""
    seed, step, ordinal = random.draw()
    if "seed" in node.attributes:
        (word,) = struct.unpack("<I", struct.pack("<f", float(node.get("seed"))))
        seed = random.key(word)
    return seed, step, ordinal


def _dtype(node: OpNode, default: DType) -> DType:
    code = int(node.get("dtype", 0))
    return engine_type(code) if code else default


def _uniform(node: OpNode, shape: Shape) -> Node:
    """float32 in [0, 1)."""
    return random.uniform(*_stream(node), shape)


def _scaled(node: OpNode, shape: Shape, dtype: DType, kind: str) -> Tensor:
    if kind == "normal":
        unit = random.normal(*_stream(node), shape)
        factor, offset = float(node.get("scale", 1.0)), float(node.get("mean", 0.0))
    else:
        unit = _uniform(node, shape)
        low, high = float(node.get("low", 0.0)), float(node.get("high", 1.0))
        factor, offset = high - low, low
    return Tensor(graph.fma(unit, like(factor, unit), like(offset, unit))).to(dtype)


def _register(name: str, kind: str) -> None:
    @op(name)
    def by_shape(node: OpNode) -> Tensor:
        return _scaled(node, node.ints("shape") or (), _dtype(node, float32), kind)

    @op(f"{name}Like")
    def by_example(node: OpNode, example: Value) -> Tensor:
        shown = tensor(example)
        return _scaled(node, shown.shape, _dtype(node, shown.dtype), kind)


_register("RandomNormal", "normal")
_register("RandomUniform", "uniform")


@op("Bernoulli")
def bernoulli(node: OpNode, probability: Value) -> Tensor:
    """1 with the given probability, else 0."""
    chance = tensor(probability)
    drawn = Tensor(_uniform(node, chance.shape), device=chance.device)
    return (drawn < chance.to(float32)).to(_dtype(node, chance.dtype))


@op("Multinomial")
def multinomial(node: OpNode, logits: Value) -> Tensor:
    """``sample_size`` class numbers per row of unnormalised log-probabilities [N, classes].

    Gumbel's trick: the position of the largest logit - log(-log u) has the softmax distribution.
    """
    given = tensor(logits)
    rows, classes = given.shape
    shape = (rows, int(node.get("sample_size", 1)), classes)
    unit = _uniform(node, shape)
    shifted = graph.add(unit, like(2.0**-25, unit))  # never 0, rounds to 1 at most
    noise = macros.log(graph.mul(macros.log(shifted), like(-1.0, shifted)))
    wide = graph.reshape(graph.cast(given.node, float32), (rows, 1, classes))
    score = graph.add(broadcast_to(wide, shape), graph.mul(noise, like(-1.0, noise)))
    best = first_extreme(score, (2,), fold("max", score, (2,), keep=True))
    target = engine_type(int(node.get("dtype", 6)))
    return Tensor(graph.cast(graph.reshape(best, shape[:2]), target), device=given.device)
