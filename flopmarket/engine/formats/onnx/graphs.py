"""Graphs and functions out of protobuf: decoded, counted, every name accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flopmarket.engine.formats.onnx import limits
from flopmarket.engine.formats.onnx.errors import OnnxIllegal, OnnxUnsupported
from flopmarket.engine.formats.onnx.names import (
    attributes_of,
    checked_name,
    domain_of,
    over,
    text,
    title_of,
    value_type,
)
from flopmarket.engine.formats.onnx.order import reads, sorted_steps, with_drops
from flopmarket.engine.formats.onnx.parsed import (
    AttributeReference,
    Function,
    Graph,
    Step,
    ValueSpec,
)
from flopmarket.engine.formats.onnx.signatures import check_signature
from flopmarket.engine.formats.onnx.tensors import TensorReader, decoded

_LARGEST_VERSION = 2**31 - 1
"""The largest opset version that onnx can be asked about."""


class GraphReader:
    """Decodes graphs and counts what the limits bound."""

    def __init__(self, tensors: TensorReader) -> None:
        self._tensors = tensors
        self._nodes = 0
        self._initialisers = 0
        self._attribute_items = 0

    # ------------------------------------------------------------ graphs

    def graph(
        self, proto: Any, outer: frozenset[str], opsets: Mapping[str, int], depth: int
    ) -> Graph:
        """A graph whose nodes may read the names of ``outer`` too."""
        if depth > limits.MAX_GRAPH_DEPTH:
            over("subgraphs inside each other", depth, limits.MAX_GRAPH_DEPTH)
        inputs = tuple(self._value_spec(value) for value in proto.input)
        initialisers = self._read_initialisers(proto)
        outputs = tuple(self._value_spec(value) for value in proto.output)
        defined: dict[str, Any] = {}
        for spec in inputs:
            self._define(spec.name, "an input", defined)
        for name in initialisers:
            if name not in defined:
                self._define(name, "an initialiser", defined)
        names = frozenset(defined)
        steps, produced = self._steps(proto.node, names, outer, opsets, depth)
        for spec in outputs:
            if spec.name not in names | produced | outer:
                raise OnnxIllegal(f"nothing defines the output {spec.name!r}", code="ONNX_NAME")
        captured = {name for step in steps for name in reads(step)}
        captured |= {spec.name for spec in outputs}
        given = tuple(spec for spec in inputs if spec.name not in initialisers)
        return Graph(
            checked_name(proto.name, "graph"),
            given,
            outputs,
            initialisers,
            with_drops(steps, {spec.name for spec in outputs}, names | produced),
            frozenset(captured - names - produced),
        )

    def _read_initialisers(self, proto: Any) -> dict[str, Any]:
        self._initialisers += len(proto.initializer) + len(proto.sparse_initializer)
        if self._initialisers > limits.MAX_INITIALISERS:
            over("initialisers", self._initialisers, limits.MAX_INITIALISERS)
        found: dict[str, Any] = {}
        for tensor in proto.initializer:
            name = checked_name(tensor.name, "initialiser")
            self._define(name, "an initialiser", found, self._tensors.dense(tensor, name))
        for sparse in proto.sparse_initializer:
            name = checked_name(sparse.values.name, "sparse initialiser")
            self._define(name, "an initialiser", found, self._tensors.sparse(sparse, name))
        return found

    @staticmethod
    def _define(name: str, what: str, found: dict[str, Any], value: Any = None) -> None:
        if not name:
            raise OnnxIllegal(f"{what} has no name", code="ONNX_NAME")
        if name in found:
            raise OnnxIllegal(f"{what} {name!r} is defined twice", code="ONNX_NAME")
        found[name] = value

    def _value_spec(self, proto: Any) -> ValueSpec:
        name = checked_name(proto.name, "value")
        return ValueSpec(name, value_type(proto.type, name))

    def _steps(
        self,
        protos: Sequence[Any],
        names: frozenset[str],
        outer: frozenset[str],
        opsets: Mapping[str, int],
        depth: int,
    ) -> tuple[list[Step], frozenset[str]]:
        """The nodes in topological order, and the names that they define."""
        self._nodes += len(protos)
        if self._nodes > limits.MAX_NODES:
            over("nodes", self._nodes, limits.MAX_NODES)
        produced: dict[str, int] = {}
        for at, proto in enumerate(protos):
            for name in proto.output:
                if not name:
                    continue
                if name in names or name in produced:
                    raise OnnxIllegal(
                        f"{title_of(proto)} defines {name!r}, which is defined already",
                        code="ONNX_NAME",
                    )
                produced[checked_name(name, "value")] = at
        visible = outer | names | frozenset(produced)
        steps = [self._step(proto, visible, opsets, depth) for proto in protos]
        for step in steps:
            for name in reads(step):
                if name not in visible:
                    raise OnnxIllegal(
                        f"{step.title} reads {name!r}, which nothing defines", code="ONNX_NAME"
                    )
        return sorted_steps(steps, produced), frozenset(produced)

    def _step(
        self, proto: Any, visible: frozenset[str], opsets: Mapping[str, int], depth: int
    ) -> Step:
        for what in (proto.input, proto.output, proto.attribute):
            if len(what) > limits.MAX_NODE_VALUES:
                over(f"values of {title_of(proto)}", len(what), limits.MAX_NODE_VALUES)
        domain = domain_of(proto.domain)
        names = [*proto.input, *proto.output, *(attribute.name for attribute in proto.attribute)]
        for name in names:
            checked_name(name, "value")
        attributes: dict[str, Any] = {}
        for attribute in attributes_of(proto):
            if attribute.name in attributes:
                raise OnnxIllegal(
                    f"{title_of(proto)} has attribute {attribute.name!r} twice", code="ONNX_NODE"
                )
            attributes[attribute.name] = self._attribute(
                attribute, title_of(proto), visible, opsets, depth
            )
        op_type = checked_name(proto.op_type, "operator")
        check_signature(proto, domain, opsets.get(domain))
        return Step(
            op_type,
            domain,
            text(proto.overload, "overload"),
            checked_name(proto.name, "node"),
            tuple(proto.input),
            tuple(proto.output),
            attributes,
        )

    # ------------------------------------------------------------ attributes

    def _attribute(
        self,
        proto: Any,
        title: str,
        visible: frozenset[str],
        opsets: Mapping[str, int],
        depth: int,
    ) -> Any:
        import onnx

        if proto.ref_attr_name:
            return AttributeReference(text(proto.ref_attr_name, "attribute"))
        kind = onnx.AttributeProto.AttributeType.Name(proto.type)
        label = f"{title} {proto.name}"
        if kind in ("FLOAT", "INT"):
            return getattr(proto, kind[0].lower())
        if kind in ("FLOATS", "INTS", "STRINGS"):
            self._attribute_items += len(getattr(proto, kind.lower()))
            if self._attribute_items > limits.MAX_ATTRIBUTE_ITEMS:
                over("items of attributes", self._attribute_items, limits.MAX_ATTRIBUTE_ITEMS)
        if kind in ("FLOATS", "INTS"):
            return list(getattr(proto, kind.lower()))
        if kind == "STRING":
            return decoded(proto.s)
        if kind == "STRINGS":
            return [decoded(text) for text in proto.strings]
        if kind == "TENSOR":
            return self._tensors.dense(proto.t, label)
        if kind == "TENSORS":
            return [self._tensors.dense(tensor, label) for tensor in proto.tensors]
        if kind == "SPARSE_TENSOR":
            return self._tensors.sparse(proto.sparse_tensor, label)
        if kind == "GRAPH":
            return self.graph(proto.g, visible, opsets, depth + 1)
        if kind == "GRAPHS":
            return [self.graph(graph, visible, opsets, depth + 1) for graph in proto.graphs]
        if kind == "TYPE_PROTO":
            return value_type(proto.tp, label)
        raise OnnxUnsupported(f"{title} has attribute {proto.name!r} of kind {kind}")

    # ------------------------------------------------------------ functions

    def function(self, proto: Any, partial: bool = False) -> Function:
        """A function body; a ``partial`` one may leave outputs undefined."""
        key = (
            domain_of(proto.domain),
            checked_name(proto.name, "function"),
            text(proto.overload, "overload"),
        )
        opsets = opsets_of(proto.opset_import, f"function {proto.name!r}")
        inputs: dict[str, Any] = {}
        for name in proto.input:
            self._define(
                checked_name(name, "value"), f"an input of function {proto.name!r}", inputs
            )
        steps, produced = self._steps(proto.node, frozenset(inputs), frozenset(), opsets, 0)
        for name in proto.output:
            if not partial and name not in produced and name not in inputs:
                raise OnnxIllegal(
                    f"nothing defines the output {name!r} of function {proto.name!r}",
                    code="ONNX_NAME",
                )
        defaults: dict[str, Any] = {}
        for attribute in proto.attribute_proto:
            defaults[text(attribute.name, "attribute")] = self._attribute(
                attribute, f"function {proto.name!r}", frozenset(), opsets, 0
            )
        return Function(
            key,
            tuple(proto.input),
            tuple(proto.output),
            defaults,
            opsets,
            with_drops(steps, set(proto.output), produced),
        )


def opsets_of(imports: Iterable[Any], owner: str) -> dict[str, int]:
    """Versions by domain; raises OnnxUnsupported (ONNX_OPSET) beyond what onnx knows."""
    import onnx

    found: dict[str, int] = {}
    for entry in imports:
        domain = domain_of(entry.domain)
        newest = onnx.defs.onnx_opset_version() if domain == "ai.onnx" else _LARGEST_VERSION
        if not 1 <= entry.version <= newest:
            raise OnnxUnsupported(
                f"{owner} uses opset {entry.version} of {domain}, read are 1 to {newest}",
                code="ONNX_OPSET",
            )
        if found.get(domain, entry.version) != entry.version:
            raise OnnxIllegal(f"{owner} imports {domain} in two versions", code="ONNX_OPSET")
        found[domain] = int(entry.version)
    return found
