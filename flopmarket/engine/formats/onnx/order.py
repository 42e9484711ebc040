"""Nodes in topological order, and how long each value is needed."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.parsed import Graph, Step


def reads(step: Step) -> Iterable[str]:
    """Names that a step reads, those that its subgraphs capture among them."""
    yield from (name for name in step.inputs if name)
    yield from named_values(step)
    for value in step.attributes.values():
        for graph in value if isinstance(value, list) else (value,):
            if isinstance(graph, Graph):
                yield from graph.captured


def named_values(step: Step) -> Iterable[str]:
    """Values that a step reads by an attribute that names them: Gradient does."""
    if (step.op_type, step.domain) == ("Gradient", "ai.onnx.preview.training"):
        names = [step.attributes.get("y"), *step.attributes.get("xs", ())]
        yield from (name for name in names if isinstance(name, str))


def sorted_steps(steps: Sequence[Step], produced: Mapping[str, int]) -> list[Step]:
    """Steps with sources first, otherwise in the file's order; raises OnnxIllegal on a cycle."""
    waiting = []
    users: list[list[int]] = [[] for _ in steps]
    for at, step in enumerate(steps):
        sources = {produced[name] for name in reads(step) if name in produced}
        waiting.append(len(sources))
        for source in sources:
            users[source].append(at)
    ready = [at for at, count in enumerate(waiting) if not count]
    order: list[Step] = []
    while ready:
        at = heapq.heappop(ready)
        order.append(steps[at])
        for user in users[at]:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, user)
    if len(order) < len(steps):
        stuck = next(step for at, step in enumerate(steps) if waiting[at])
        raise OnnxIllegal(f"{stuck.title} depends on itself", code="ONNX_CYCLE")
    return order


def with_drops(steps: Sequence[Step], kept: set[str], local: frozenset[str]) -> tuple[Step, ...]:
    """Steps that know which of the graph's own values nobody reads after them."""
    seen = set(kept)
    result: list[Step] = []
    for step in reversed(steps):
        names = {name for name in (*reads(step), *step.outputs) if name in local}
        drops = tuple(sorted(names - seen))
        seen |= names
        result.append(replace(step, drops=drops))
    return tuple(reversed(result))
