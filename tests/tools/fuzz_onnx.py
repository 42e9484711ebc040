"""Structural mutations of onnx's conformance models: each is computed or refused, nothing else.

    python -m tests.tools.fuzz_onnx --seconds 300                # every operator in turn
    python -m tests.tools.fuzz_onnx --match 'test_resize*' --seconds 60
    python -m tests.tools.fuzz_onnx --replay test_add:17          # one mutant, with its traceback

A mutant is (case, number), so that every finding can be made again. Mutants run on the reference in
child processes with a bound on memory and time; what is no EngineError, passes a bound, or ends the
process is a finding. Findings that come from one place are one class.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from flopmarket.engine.errors import EngineError
from flopmarket.engine.formats import onnx as fm_onnx
from flopmarket.engine.formats.onnx import ops
from flopmarket.engine.formats.onnx.parsed import ValueType
from tests.onnx_suite.cases import Case, collect

LARGEST_MODEL_BYTES = 64 * 1024
"""Of a model that is mutated."""

SPARE_BYTES = 2 * 2**30
"""Address space that one mutant may take beyond what the process has."""

LIMIT_S = 10
"""Processor time of one mutant, which a busy machine does not lengthen."""

MUTANTS_PER_CHILD = 50
MUTANTS_PER_CASE = 5

EXTREMES = (0, -1, 1, 2, 7, 1 << 20, 1 << 31, 1 << 40, 2**62, -(2**63), 2**63 - 1)
FLOATS = (0.0, -0.0, -1.0, 1e38, -1e38, 1e-45, float("nan"), float("inf"), float("-inf"))
DTYPES = (1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 21, 22, 23, 99)

Mutation = Callable[[random.Random, onnx.ModelProto], None]


# ---------------------------------------------------------------- mutations


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    bodies: list[Any] = [*_graphs(model.graph), *model.functions]
    return [node for body in bodies for node in body.node]


def _names(model: onnx.ModelProto) -> list[str]:
    found = {name for node in _nodes(model) for name in (*node.input, *node.output)}
    return sorted(found | {value.name for value in model.graph.input})


def _attributes(model: onnx.ModelProto) -> list[onnx.AttributeProto]:
    return [attribute for node in _nodes(model) for attribute in node.attribute]


def swap_inputs(rng: random.Random, model: onnx.ModelProto) -> None:
    node = rng.choice(_nodes(model))
    names = list(node.input)
    rng.shuffle(names)
    node.input[:] = names


def reroute(rng: random.Random, model: onnx.ModelProto) -> None:
    node = rng.choice(_nodes(model))
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice([*_names(model), ""])


def change_count(rng: random.Random, model: onnx.ModelProto) -> None:
    node = rng.choice(_nodes(model))
    values = rng.choice([node.input, node.output])
    if values and rng.random() < 0.5:
        del values[rng.randrange(len(values))]
    else:
        values.append(rng.choice([*_names(model), "", "new"]))


def drop_attribute(rng: random.Random, model: onnx.ModelProto) -> None:
    node = rng.choice(_nodes(model))
    if node.attribute:
        del node.attribute[rng.randrange(len(node.attribute))]


def extreme_attribute(rng: random.Random, model: onnx.ModelProto) -> None:
    found = _attributes(model)
    if not found:
        return
    attribute = rng.choice(found)
    kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
    if kind == "INT":
        attribute.i = rng.choice(EXTREMES)
    elif kind == "FLOAT":
        attribute.f = rng.choice(FLOATS)
    elif kind == "INTS":
        _mutate_list(rng, attribute.ints, EXTREMES)
    elif kind == "FLOATS":
        _mutate_list(rng, attribute.floats, FLOATS)
    elif kind == "STRING":
        attribute.s = rng.choice([b"", b"\xff\xfe", b"(a*)*b" * 50, b"NOTSET", attribute.s[:-1]])
    elif kind == "STRINGS":
        _mutate_list(rng, attribute.strings, (b"", b"\xff", b"x" * 1000))
    elif kind == "TENSOR":
        _extreme_tensor(rng, attribute.t)


def _mutate_list(rng: random.Random, values: Any, extremes: Any) -> None:
    what = rng.randrange(4)
    if what == 0 and values:
        del values[rng.randrange(len(values)) :]
    elif what == 1:
        values.extend([rng.choice(extremes)] * rng.choice([1, 3, 100]))
    elif values:
        values[rng.randrange(len(values))] = rng.choice(extremes)


def _extreme_tensor(rng: random.Random, tensor: onnx.TensorProto) -> None:
    what = rng.randrange(5)
    if what == 0:
        tensor.data_type = rng.choice(DTYPES)
    elif what == 1:
        _mutate_list(rng, tensor.dims, EXTREMES)
    elif what == 2 and tensor.raw_data:
        tensor.raw_data = tensor.raw_data[:-1]
    else:
        try:
            array = numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError):  # mutated before
            return
        tensor.CopyFrom(numpy_helper.from_array(extreme_array(rng, array), tensor.name))


def extreme_array(rng: random.Random, array: Any) -> Any:
    """A copy with some values replaced, or of another shape."""
    array = np.array(array)
    if array.size and rng.random() < 0.7:
        flat = array.reshape(-1)
        for _ in range(rng.choice([1, 1, array.size])):
            with np.errstate(all="ignore"):
                if array.dtype.kind in "iu":
                    low, high = np.iinfo(array.dtype).min, np.iinfo(array.dtype).max
                    flat[rng.randrange(array.size)] = max(low, min(high, rng.choice(EXTREMES)))
                elif array.dtype.kind == "f":
                    flat[rng.randrange(array.size)] = rng.choice(FLOATS)
        return array
    shape = list(array.shape)
    what = rng.randrange(4)
    if what == 0:
        return array.reshape(-1)[: rng.choice([0, 1])]
    if what == 1:
        return array.reshape(1, *shape)
    if what == 2:
        return array.reshape(-1)
    return array.reshape(-1)[:1].reshape(()) if array.size else array


def change_type(rng: random.Random, model: onnx.ModelProto) -> None:
    value = rng.choice([*model.graph.input, *model.graph.output])
    if value.type.WhichOneof("value") != "tensor_type":
        return
    tensor = value.type.tensor_type
    what = rng.randrange(4)
    if what == 0:
        tensor.elem_type = rng.choice(DTYPES)
    elif what == 1 and tensor.shape.dim:
        del tensor.shape.dim[rng.randrange(len(tensor.shape.dim))]
    elif what == 2:
        tensor.shape.dim.add(dim_value=rng.choice([0, 1, 2]))
    elif tensor.shape.dim:
        tensor.shape.dim[rng.randrange(len(tensor.shape.dim))].dim_value = rng.choice([0, 1, 5])


def freeze_input(rng: random.Random, model: onnx.ModelProto) -> None:
    """An input that decides something becomes an extreme initialiser."""
    if not model.graph.input:
        return
    value = rng.choice(model.graph.input)
    kind = value.type.tensor_type
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    except KeyError:
        return
    shape = [min(64, max(0, d.dim_value)) for d in kind.shape.dim]
    if dtype.kind == "O" or np.prod(shape) > 1e5:
        return
    array = extreme_array(rng, np.ones(shape, dtype))
    model.graph.initializer.append(numpy_helper.from_array(array, value.name))


def change_operator(rng: random.Random, model: onnx.ModelProto) -> None:
    node = rng.choice(_nodes(model))
    node.op_type = rng.choice(OPERATORS)


def repeat_node(rng: random.Random, model: onnx.ModelProto) -> None:
    nodes = model.graph.node
    if nodes:
        extra = onnx.NodeProto()
        extra.CopyFrom(rng.choice(nodes))
        for at in range(len(extra.output)):
            extra.output[at] += "_again"
        nodes.append(extra)


def change_opset(rng: random.Random, model: onnx.ModelProto) -> None:
    entry = rng.choice(model.opset_import)
    entry.version = rng.choice([1, 5, 6, 7, 9, 11, 13, 17, 20, *EXTREMES])


MUTATIONS: tuple[Mutation, ...] = (
    swap_inputs,
    reroute,
    change_count,
    drop_attribute,
    extreme_attribute,
    extreme_attribute,
    extreme_attribute,
    change_type,
    change_type,
    freeze_input,
    freeze_input,
    change_operator,
    repeat_node,
    change_opset,
)
OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas()})


def mutant(case: Case, number: int) -> tuple[onnx.ModelProto, dict[str, Any], random.Random]:
    """(model, feed, what further choices are drawn from) of a case's mutant."""
    rng = random.Random(f"{case.name}:{number}")
    source = case.model()
    model = onnx.ModelProto()
    model.CopyFrom(source if isinstance(source, onnx.ModelProto) else onnx.load(source))
    inputs = next(case.data())[0]
    feed = dict(zip((value.name for value in model.graph.input), inputs, strict=False))
    for _ in range(rng.choice([1, 1, 2, 3])):
        rng.choice(MUTATIONS)(rng, model)
    if feed and rng.random() < 0.3:
        name = rng.choice(sorted(feed))
        if isinstance(feed[name], np.ndarray) and feed[name].dtype != object:
            feed[name] = extreme_array(rng, feed[name])
    return model, feed, rng


# ---------------------------------------------------------------- running one


def attempt(model: onnx.ModelProto, feed: dict[str, Any], rng: random.Random) -> str:
    """Load and run a mutant: 'computed', or the code of the refusal."""
    try:
        loaded = fm_onnx.load(model.SerializeToString())
        given = {spec.name: _fitting(spec.type, feed.get(spec.name), rng) for spec in loaded.inputs}
        loaded.run(given, device="reference")
    except EngineError as error:
        return error.code
    return "computed"


def _fitting(kind: ValueType, data: Any, rng: random.Random) -> Any:
    """``data`` where it is of the declared form, else zeros and ones that are."""
    if kind.kind != "tensor" or kind.dtype is None or kind.dtype == object:
        return data
    shape = tuple(n if isinstance(n, int) else rng.choice([0, 1, 3]) for n in kind.shape or ())
    if isinstance(data, np.ndarray) and data.dtype == kind.dtype:
        declared = kind.shape
        if declared is None or len(declared) == data.ndim:
            fits = all(
                n == m for n, m in zip(declared or (), data.shape, strict=False) if type(n) is int
            )
            if fits:
                return data
    if np.prod(shape, dtype=float) > 1e6:
        return data
    return np.ones(shape).astype(kind.dtype)


def finding(error: BaseException) -> str:
    """A class of failures: the error and the project's innermost place that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if "/flopmarket/engine/" in frame.filename]
    place = inside[-1] if inside else frames[-1]
    name = place.filename.split("/flopmarket/engine/")[-1]
    message = " ".join(str(error).split())[:100]
    return f"{type(error).__name__} at {name}:{place.lineno} in {place.name}: {message}"


class OutOfTime(BaseException):
    """Raised by the alarm. No Exception, so that nothing under test catches it."""


def _out_of_time(number: int, frame: Any) -> None:
    raise OutOfTime


def run_guarded(case: Case, number: int) -> tuple[str, str]:
    """(what happened, finding or '')."""
    model, feed, rng = mutant(case, number)
    signal.signal(signal.SIGPROF, _out_of_time)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    try:
        return attempt(model, feed, rng), ""
    except (Exception, OutOfTime) as error:
        return "finding", finding(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _child(work: list[tuple[Case, int]], pipe: int) -> None:
    _limit_memory()
    with os.fdopen(pipe, "w", buffering=1) as out:
        for case, number in work:
            out.write(f"begin\t{case.name}:{number}\t\n")
            started = time.process_time()
            what, text = run_guarded(case, number)
            seconds = time.process_time() - started
            if not text and seconds > LIMIT_S / 2:
                what, text = "finding", f"{case.name.split('_')[1]}: {seconds:.0f} s"
            out.write(f"{what}\t{case.name}:{number}\t{text}\n")


def run_batch(work: list[tuple[Case, int]]) -> Iterator[tuple[str, str, str]]:
    """(what happened, mutant, finding) for each, in a child process."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            _child(work, writing)
        finally:
            os._exit(0)
    os.close(writing)
    begun = ""
    with os.fdopen(reading) as lines:
        for line in lines:
            what, name, text = line.rstrip("\n").split("\t", 2)
            if what == "begin":
                begun = name
            else:
                begun = ""
                yield what, name, text
    _, status = os.waitpid(child, 0)
    if begun:
        yield "finding", begun, f"the process ended with status {status} in {begun}"


# ---------------------------------------------------------------- the command


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.fuzz_onnx")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--match", action="append", help="shell pattern of case names; repeatable")
    parser.add_argument("--seed", type=int, default=0, help="where the numbers of mutants begin")
    parser.add_argument("--replay", help="CASE:NUMBER")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    ops.load()  # here, so that no child has to
    if arguments.replay:
        return _replay(*arguments.replay.rsplit(":", 1))
    cases = [
        case
        for case in collect()
        if case.kind == "node"
        and case.source.model.ByteSize() < LARGEST_MODEL_BYTES
        and (not arguments.match or any(fnmatchcase(case.name, p) for p in arguments.match))
    ]
    random.Random(arguments.seed).shuffle(cases)
    deadline = time.monotonic() + arguments.seconds
    counts: Counter[str] = Counter()
    classes: dict[str, list[str]] = {}
    for batch in _batches(cases, arguments.seed):
        if time.monotonic() > deadline:
            break
        for what, name, text in run_batch(batch):
            counts[what] += 1
            if text:
                if text not in classes:
                    print(f"{name}  {text}", flush=True)
                classes.setdefault(text, []).append(name)
    print(f"\n{sum(counts.values())} mutants:", *(f"{w} {n}" for w, n in counts.most_common()))
    for text, names in sorted(classes.items(), key=lambda item: -len(item[1])):
        print(f"{len(names):5}  {text}  ({names[0]})")
    return int(bool(classes))


def _batches(cases: list[Case], seed: int) -> Iterator[list[tuple[Case, int]]]:
    first = seed * 1_000_000
    while True:
        numbers = range(first, first + MUTANTS_PER_CASE)
        work = [(case, number) for case in cases for number in numbers]
        for start in range(0, len(work), MUTANTS_PER_CHILD):
            yield work[start : start + MUTANTS_PER_CHILD]
        first += MUTANTS_PER_CASE


def _replay(name: str, number: str) -> int:
    case = next(case for case in collect() if case.name == name)
    model, feed, rng = mutant(case, int(number))
    print(onnx.printer.to_text(model)[:6000])
    print({key: getattr(value, "shape", type(value)) for key, value in feed.items()})
    _limit_memory()
    signal.signal(signal.SIGPROF, _out_of_time)
    signal.setitimer(signal.ITIMER_PROF, 3 * LIMIT_S)
    print(attempt(model, feed, rng))
    return 0


if __name__ == "__main__":
    sys.exit(main())
