"""How large a model grows when its functions are replaced by their bodies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flopmarket.engine.formats.onnx import limits
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.names import over
from flopmarket.engine.formats.onnx.parsed import Function, FunctionKey, Graph, ParsedModel, Step


def check_expansion(model: ParsedModel) -> None:
    """Raise OnnxIllegal when functions call themselves or expand beyond the limits."""
    called = {key: _calls(body.steps, model.functions) for key, body in model.functions.items()}
    sizes: dict[FunctionKey, int] = {}
    depths: dict[FunctionKey, int] = {}
    for start in model.functions:
        stack = [] if start in sizes else [(start, iter(called[start]))]
        entered = {start}
        while stack:
            key, waiting = stack[-1]
            call = next((call for call in waiting if call not in sizes), None)
            if call in entered:
                raise OnnxIllegal(f"function {key[1]!r} calls itself", code="ONNX_FUNCTION")
            if call is not None:
                entered.add(call)
                stack.append((call, iter(called[call])))
                continue
            stack.pop()
            entered.discard(key)
            own = _count_steps(model.functions[key].steps)
            sizes[key] = own + sum(sizes[call] for call in called[key])
            depths[key] = 1 + max((depths[call] for call in called[key]), default=0)
            if depths[key] > limits.MAX_CALL_DEPTH:
                over(f"calls inside each other in {key[1]!r}", depths[key], limits.MAX_CALL_DEPTH)
    calls = _calls(model.graph.steps, model.functions)
    total = _count_steps(model.graph.steps) + sum(sizes[call] for call in calls)
    if total > limits.MAX_EXPANDED_NODES:
        over("nodes after expanding functions", total, limits.MAX_EXPANDED_NODES)


def _all_steps(steps: Iterable[Step]) -> Iterable[Step]:
    """Steps and those of their subgraphs; nesting was bounded when they were read."""
    for step in steps:
        yield step
        for value in step.attributes.values():
            for graph in value if isinstance(value, list) else (value,):
                if isinstance(graph, Graph):
                    yield from _all_steps(graph.steps)


def _count_steps(steps: Iterable[Step]) -> int:
    return sum(1 for _ in _all_steps(steps))


def _calls(steps: Iterable[Step], functions: Mapping[FunctionKey, Function]) -> list[FunctionKey]:
    keys = ((step.domain, step.op_type, step.overload) for step in _all_steps(steps))
    return [key for key in keys if key in functions]
