"""Values that flow through an ONNX graph, and how host arrays and tensors become one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flopmarket.engine import buffers, dtypes, graph, loop
from flopmarket.engine.errors import EngineError
from flopmarket.engine.formats.onnx import limits
from flopmarket.engine.formats.onnx.errors import OnnxIllegal, OnnxUnsupported
from flopmarket.engine.formats.onnx.narrow import Narrow
from flopmarket.engine.formats.onnx.registry import Value
from flopmarket.engine.graph import Node, Op
from flopmarket.engine.tensor import Tensor

if TYPE_CHECKING:
    from flopmarket.engine.runtime.realise import Held

Array = np.ndarray[Any, Any]


def engine_dtype(dtype: np.dtype[Any]) -> dtypes.DType | None:
    """The engine's type for a numpy type, or None where no tensor holds it."""
    return dtypes.BY_NAME.get(np.dtype(dtype).name)


def as_tensor(value: Value) -> Tensor:
    """``value`` as a Tensor; raises OnnxUnsupported where no tensor holds it."""
    if isinstance(value, Tensor):
        return value
    if value is None:
        raise OnnxUnsupported("an absent value where a tensor is needed")
    if isinstance(value, list):
        raise OnnxUnsupported("a sequence where a tensor is needed")
    if isinstance(value, Narrow):
        raise OnnxUnsupported(f"no arithmetic on {value.format.name} values")
    array = np.asarray(value)
    if engine_dtype(array.dtype) is None:
        raise OnnxUnsupported(f"no arithmetic on {_dtype_word(array.dtype)} values")
    return Tensor(array)


def as_value(array: Array) -> Value:
    """A host array as a Tensor where the engine has its type, else as it is."""
    return array if engine_dtype(array.dtype) is None else Tensor(array)


def check_host(elements: int) -> None:
    """Raise OnnxIllegal (ONNX_LIMIT) before a host array of so many objects is made."""
    if elements * np.dtype(object).itemsize > limits.MAX_HOST_BYTES:
        raise OnnxIllegal(f"{elements} elements on the host are too many", code="ONNX_LIMIT")


def given_value(data: Any) -> Value:
    """Data of a user (arrays, lists of them, None) as a value of the graph."""
    if data is None or isinstance(data, Tensor):
        return data
    if isinstance(data, list | tuple):
        return [given_value(item) for item in data]
    return as_value(np.asarray(data))


def _dtype_word(dtype: np.dtype[Any]) -> str:
    return "string" if dtype.kind == "O" else dtype.name


def literal_of(tensor: Tensor) -> Array | None:
    """The data of a tensor that is a leaf, a literal, or was computed already; else None."""
    node = tensor.node
    if node.op is Op.CONST:
        return np.frombuffer(node.arg, dtype=node.dtype.numpy).reshape(node.shape)
    return buffers.array_of(node)


def tensors_in(value: Value) -> list[Tensor]:
    """Every Tensor of a value, those inside sequences and the codes of narrow formats included."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Narrow):
        return [value.codes]
    if isinstance(value, list):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def with_tensors(value: Value, by: Mapping[int, Any]) -> Value:
    """``value`` with tensors exchanged: ``by`` maps their ids."""
    if isinstance(value, Tensor):
        return by.get(id(value), value)
    if isinstance(value, Narrow):
        return Narrow(by.get(id(value.codes), value.codes), value.format)
    if isinstance(value, list):
        return [with_tensors(item, by) for item in value]
    return value


def leaf_arrays(
    nodes: Sequence[Node], known: Mapping[Node, Array]
) -> tuple[dict[Node, Array], list[Node]]:
    """(data of the leaves below ``nodes``, leaves that have none)."""
    found: dict[Node, Array] = {}
    unknown: list[Node] = []
    for node in graph.topological(nodes):
        if node.op is not Op.INPUT:
            continue
        array = known.get(node)
        if array is None:
            array = buffers.array_of(node)
        if array is None:
            unknown.append(node)
        else:
            found[node] = array
    return found, unknown


def work_of(nodes: Sequence[Node]) -> tuple[int, int]:
    """(elements, bytes) of everything that the reference goes through for ``nodes``.

    Every turn of a loop counts its body's elements, and one for each of its nodes.
    """
    below = [n for n in graph.topological(nodes) if n.op not in (Op.INPUT, Op.CONST)]
    elements = sum(n.elements for n in below)
    for group in loop.groups(below):
        turn = sum(node.elements for node in group.body.nodes)
        elements += group.count * (turn + group.body.work)
    return elements, sum(n.size_bytes for n in below)


def realise(nodes: Sequence[Node], leaves: Mapping[Node, Array], device: str | None) -> list[Array]:
    """Values of ``nodes`` on ``device``, given the data of their leaves.

    Raises OnnxIllegal (ONNX_LIMIT) for what is too large for the reference.
    """
    _check_reference(nodes, device)
    from flopmarket.engine.runtime import realise as runtime  # opens OpenCL: only when asked to

    return runtime.realise(nodes, leaves, device)


def hold(nodes: Sequence[Node], fixed: Mapping[Node, Array], device: str | None) -> Held:
    """``nodes`` made ready on ``device`` for many evaluations with the ``fixed`` data of leaves.

    Raises OnnxIllegal (ONNX_LIMIT) for what is too large for the reference.
    """
    _check_reference(nodes, device)
    from flopmarket.engine.runtime import realise as runtime  # opens OpenCL: only when asked to

    return runtime.held(nodes, fixed, device)


def _check_reference(nodes: Sequence[Node], device: str | None) -> None:
    """The reference has no memory plan and is slow: what is too large for it is refused."""
    if device != "reference":
        return
    order = graph.topological(nodes)
    largest = max((n.size_bytes for n in order if n in nodes or not _is_free(n)), default=0)
    if largest > limits.MAX_REFERENCE_BYTES:
        raise OnnxIllegal(
            f"a value of {largest} bytes, the reference takes {limits.MAX_REFERENCE_BYTES}",
            code="ONNX_LIMIT",
        )
    work = sum(group.count * group.body.work for group in loop.groups(order))
    if work > limits.MAX_REFERENCE_LOOP_WORK:
        raise OnnxIllegal(
            f"loops evaluate {work} nodes, the reference takes {limits.MAX_REFERENCE_LOOP_WORK}",
            code="ONNX_LIMIT",
        )


def _is_free(node: Node) -> bool:
    """Whether numpy has the node's value without memory of its own."""
    return node.op is Op.IOTA or (
        node.op is Op.VIEW and node.arg[0] in ("expand", "permute", "slice")
    )


def error_in(title: str, error: Exception) -> EngineError:
    """What a handler raised, as an error of ours that names the node."""
    if isinstance(error, EngineError):
        error.message = f"{title}: {error.message}"
        error.args = (error.message,)
        return error
    if isinstance(error, MemoryError):
        return OnnxIllegal(f"{title} wants more memory than there is", code="ONNX_LIMIT")
    return OnnxUnsupported(
        f"{title}: {type(error).__name__}: {error}",
        code="ONNX_NODE",
    )
