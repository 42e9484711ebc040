"""Operands of products as a GPU without room for tiles has them laid, run on whatever device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from flopmarket.engine import functional, graph
from flopmarket.engine.codegen.emit import elements_of
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.dtypes import float32
from flopmarket.engine.graph import Node
from flopmarket.engine.numerics import Numerics
from flopmarket.engine.reference import evaluate
from flopmarket.engine.rewrite import canonicalise
from flopmarket.engine.runtime import realise as realising
from flopmarket.engine.runtime.open import open_target
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.runtime.realise import Realiser
from flopmarket.engine.schedule.plan import make_plan
from flopmarket.engine.tensor import Tensor

GPU = Target(is_cpu=False, can_group=False)
M, K, N = 40, 96, 72
Build = Callable[[Node, Node], Node]


def leaf(name: str, *shape: int) -> Node:
    return graph.input_("buffer", name, float32, shape)


def plain(left: Node, right: Node) -> Node:
    return graph.dot(left, right)


def transposed(left: Node, right: Node) -> Node:
    lying = graph.reshape(right, (right.shape[0], N, K))
    return graph.dot(left, graph.permute(lying, (0, 2, 1)))


def computed(left: Node, right: Node) -> Node:
    return graph.dot(graph.mul(left, left), graph.add(right, right))


def computed_and_transposed(left: Node, right: Node) -> Node:
    lying = graph.reshape(right, (right.shape[0], N, K))
    return graph.dot(left, graph.permute(graph.mul(lying, lying), (0, 2, 1)))


def shared(left: Node, right: Node) -> Node:
    wide = graph.expand(graph.reshape(right, (1, K, N)), (left.shape[0], K, N))
    return graph.dot(left, graph.mul(wide, wide))


def alike(left: Node, right: Node) -> Node:
    """Both operands are one node, laid once."""
    square = graph.mul(left, left)
    return graph.dot(square, graph.permute(square, (0, 2, 1)))


CASES: list[tuple[Build, int, int]] = [
    (plain, 1, 0),
    (transposed, 1, 1),
    (computed, 1, 2),
    (computed_and_transposed, 2, 1),
    (shared, 3, 1),
    (alike, 2, 2),
]


@pytest.fixture
def as_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Realiser]:
    """The default device, planned for as if it were no CPU."""

    def target_of(device: Device, *, numerics: Numerics) -> Target:
        plain = open_target(device, numerics=numerics)
        return replace(plain, is_cpu=False, can_group=False)

    monkeypatch.setattr(realising, "open_target", target_of)
    realiser = Realiser()
    yield realiser
    realiser.close()


def operands(batch: int, build: Build) -> tuple[Node, Node]:
    return leaf("left", batch, M, K), leaf("right", 1 if build is shared else batch, K, N)


@pytest.mark.parametrize(("build", "batch", "laid"), CASES)
def test_what_does_not_lie_well_is_laid_once(build: Build, batch: int, laid: int) -> None:
    out = canonicalise([build(*operands(batch, build))])
    calls = [step.call for step in make_plan(out, GPU).steps]
    assert sum(call.family.startswith("lay") for call in calls) == laid
    on_cpu = [step.call for step in make_plan(out, Target()).steps]
    assert not any(call.family.startswith("lay") for call in on_cpu)


@pytest.mark.parametrize(("build", "batch", "laid"), CASES)
def test_laid_operands_have_the_reference_bits(
    as_gpu: Realiser, build: Build, batch: int, laid: int
) -> None:
    random = np.random.default_rng(batch)
    leaves = operands(batch, build)
    values = {node: random.standard_normal(node.shape).astype(np.float32) for node in leaves}
    out = build(*leaves)
    (found,) = as_gpu.realise([out], values)
    (expected,) = evaluate(canonicalise([out]), values)
    assert found.tobytes() == expected.tobytes()


def test_windows_of_a_convolution_stay_where_they_are() -> None:
    """Laid, they would be nine times the image. The kernel's weights lie transposed."""
    images = Tensor(leaf("images", 1, 8, 32, 32))
    layer = functional.conv2d(images, Tensor(leaf("weights", 16, 8, 3, 3)))
    calls = [step.call for step in make_plan(canonicalise([layer.node]), GPU).steps]
    laid = [call.arguments[at] for call in calls if "lay" in call.family for at in call.written]
    assert [elements_of(key) for key in laid] == [16 * 8 * 9], "the weights, transposed"
