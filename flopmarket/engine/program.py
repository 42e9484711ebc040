"""A closed step program: what is traced once, priced, signed, shipped, run and audited.

``state', outputs = step(frozen, state, inputs)`` as a canonical graph with named tensors at its
borders. Its bytes are canonical (one program, one byte string), its digest covers the numerics
profile, and its cost is read from the graph alone, so every party computes the same price.

:meth:`Program.from_bytes` meets bytes of strangers: whatever they hold, it returns a legal program
or raises GraphError, within the limits of :mod:`flopmarket.engine.limits`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from flopmarket.engine import dtypes, limits
from flopmarket.engine.codec import Reader, Writer, malformed
from flopmarket.engine.cost import Cost, measure
from flopmarket.engine.dtypes import DType
from flopmarket.engine.errors import GraphError
from flopmarket.engine.exact import PROFILE
from flopmarket.engine.graph import Node, Op, Shape, input_, make, topological
from flopmarket.engine.rewrite import canonicalise

_MAGIC = b"FLOPPROG\x01"
_DIGEST_DOMAIN = b"flopmarket.program.v1\x00"
_RESERVED_PREFIX = "__"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, dtype and shape of one tensor at the border of a program."""

    name: str
    dtype: DType
    shape: Shape

    @property
    def size_bytes(self) -> int:
        """Bytes of the canonical dense layout."""
        size = self.dtype.size_bytes
        for n in self.shape:
            size *= n
        return size


@dataclass(frozen=True)
class Program:
    """A step: frozen and state tensors and inputs in, the next state and outputs out.

    ``state_nodes[i]`` is the next value of ``state[i]``; ``output_nodes[i]`` is ``outputs[i]``.
    Build with :meth:`build` or :meth:`from_bytes`; both check.
    """

    frozen: tuple[TensorSpec, ...]
    state: tuple[TensorSpec, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state_nodes: tuple[Node, ...]
    output_nodes: tuple[Node, ...]

    @staticmethod
    def build(
        *,
        frozen: Sequence[TensorSpec],
        state: Sequence[TensorSpec],
        inputs: Sequence[TensorSpec],
        next_state: Sequence[Node],
        outputs: Sequence[tuple[str, Node]],
        reserved_names: bool = False,
    ) -> Program:
        """The canonical program of these nodes.

        Tensors keep the given order. Raises GraphError when a leaf is not a declared tensor, a
        next state has another form than the state, a name is repeated, empty, too long or (unless
        ``reserved_names``) begins with two underscores, or a limit is passed.
        """
        nodes = canonicalise([*next_state, *(node for _, node in outputs)])
        split = len(next_state)
        program = Program(
            tuple(frozen),
            tuple(state),
            tuple(inputs),
            tuple(
                TensorSpec(name, node.dtype, node.shape)
                for (name, _), node in zip(outputs, nodes[split:], strict=True)
            ),
            nodes[:split],
            nodes[split:],
        )
        program._check(reserved_names)
        return program

    def _check(self, reserved_names: bool) -> None:
        for kind, specs in (
            ("frozen", self.frozen),
            ("state", self.state),
            ("input", self.inputs),
            ("output", self.outputs),
        ):
            if len(specs) > limits.MAX_TENSORS:
                _refuse(f"{len(specs)} {kind} tensors, at most {limits.MAX_TENSORS}")
            seen: set[str] = set()
            for spec in specs:
                if spec.name in seen:
                    _refuse(f"two {kind} tensors are called {spec.name!r}")
                if not reserved_names and spec.name.startswith(_RESERVED_PREFIX):
                    _refuse(f"{kind} name {spec.name!r} is reserved (leading underscores)")
                seen.add(spec.name)
        if len(self.state_nodes) != len(self.state):
            _refuse("as many next states as state tensors")
        for spec, node in zip(self.state, self.state_nodes, strict=True):
            if node.dtype is not spec.dtype or node.shape != spec.shape:
                _refuse(
                    f"state {spec.name!r} is {spec.dtype}{list(spec.shape)} but becomes "
                    f"{node.dtype}{list(node.shape)}"
                )
        if len(self.nodes) > limits.MAX_NODES:
            _refuse(f"{len(self.nodes)} nodes, at most {limits.MAX_NODES}", "PROGRAM_LIMIT")
        literals = sum(len(node.arg) for node in self.nodes if node.op is Op.CONST)
        if literals > limits.MAX_CONSTANT_BYTES:
            _refuse(
                f"{literals} bytes of constants, at most {limits.MAX_CONSTANT_BYTES}; "
                "weights are inputs or frozen tensors",
                "PROGRAM_LIMIT",
            )
        declared = {
            input_(kind, spec.name, spec.dtype, spec.shape)
            for kind, specs in (
                ("frozen", self.frozen),
                ("state", self.state),
                ("input", self.inputs),
            )
            for spec in specs
        }
        for leaf in self.leaves:
            if leaf.arg[0] not in ("seed", "step") and leaf not in declared:
                _refuse(f"{leaf!r} is not a declared tensor")

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Every node, sources first, in the order of the codec."""
        return tuple(topological([*self.state_nodes, *self.output_nodes]))

    @cached_property
    def leaves(self) -> tuple[Node, ...]:
        """The INPUT nodes that are read."""
        return tuple(node for node in self.nodes if node.op is Op.INPUT)

    @cached_property
    def digest(self) -> bytes:
        """sha256 of the canonical bytes under the program domain; 32 bytes."""
        return hashlib.sha256(_DIGEST_DOMAIN + self.to_bytes()).digest()

    @cached_property
    def cost(self) -> Cost:
        """Counted work of one step, exact, the same for every party."""
        return measure(self)

    def to_bytes(self) -> bytes:
        """The canonical bytes."""
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        writer = Writer()
        writer.raw(_MAGIC)
        writer.text(PROFILE)
        for specs in (self.frozen, self.state, self.inputs):
            writer.natural(len(specs))
            for spec in specs:
                writer.text(spec.name)
                _write_form(writer, spec.dtype, spec.shape)
        index = {node: at for at, node in enumerate(self.nodes)}
        writer.natural(len(self.nodes))
        for node in self.nodes:
            writer.natural(int(node.op))
            _write_form(writer, node.dtype, node.shape)
            writer.natural(len(node.src))
            for source in node.src:
                writer.natural(index[source])
            writer.argument(node.arg)
        for node in self.state_nodes:
            writer.natural(index[node])
        writer.natural(len(self.outputs))
        for spec, node in zip(self.outputs, self.output_nodes, strict=True):
            writer.text(spec.name)
            writer.natural(index[node])
        data = writer.finish()
        if len(data) > limits.MAX_PROGRAM_BYTES:
            _refuse(f"{len(data)} bytes, at most {limits.MAX_PROGRAM_BYTES}", code="PROGRAM_LIMIT")
        return data

    @staticmethod
    def from_bytes(data: bytes, *, reserved_names: bool = False) -> Program:
        """Read canonical bytes from anyone.

        Raises GraphError: PROGRAM_MALFORMED, PROGRAM_LIMIT, PROGRAM_PROFILE (made for another
        numerics profile), PROGRAM_UNKNOWN_OP, PROGRAM_CYCLE, PROGRAM_NOT_CANONICAL, or the code
        of the rule of ``spec`` that a node breaks.
        """
        if len(data) > limits.MAX_PROGRAM_BYTES:
            malformed(f"{len(data)} bytes, at most {limits.MAX_PROGRAM_BYTES}", "PROGRAM_LIMIT")
        reader = Reader(bytes(data))
        if reader.left < len(_MAGIC) or reader.raw(len(_MAGIC)) != _MAGIC:
            malformed("it does not begin like a program")
        profile = reader.text(200, "profile")
        if profile != PROFILE:
            malformed(f"numerics profile {profile!r}; this is {PROFILE}", "PROGRAM_PROFILE")
        frozen, state, inputs = (_read_specs(reader) for _ in range(3))
        nodes = _read_nodes(reader)
        state_nodes = [_read_index(reader, nodes) for _ in state]
        count = reader.natural(limits.MAX_TENSORS, "outputs")
        outputs = [(_read_name(reader), _read_index(reader, nodes)) for _ in range(count)]
        if reader.left:
            malformed(f"{reader.left} bytes after the end")
        program = Program.build(
            frozen=frozen,
            state=state,
            inputs=inputs,
            next_state=state_nodes,
            outputs=outputs,
            reserved_names=reserved_names,
        )
        if program.to_bytes() != data:
            malformed("not the canonical bytes of what it means", "PROGRAM_NOT_CANONICAL")
        return program


def _refuse(why: str, code: str = "PROGRAM_ILLEGAL") -> None:
    raise GraphError(f"illegal program: {why}", code=code)


def _write_form(writer: Writer, dtype: DType, shape: Shape) -> None:
    writer.natural(dtype.code)
    writer.natural(len(shape))
    for n in shape:
        writer.natural(n)


def _read_form(reader: Reader) -> tuple[DType, Shape]:
    dtype = dtypes.DTYPES[reader.natural(len(dtypes.DTYPES) - 1, "dtype")]
    rank = reader.natural(limits.MAX_RANK, "rank")
    return dtype, tuple(reader.natural(limits.MAX_ELEMENTS, "dimension") for _ in range(rank))


def _read_name(reader: Reader) -> str:
    name = reader.text(limits.MAX_NAME_BYTES, "name")
    if not name:
        malformed("a tensor without a name")
    return name


def _read_specs(reader: Reader) -> list[TensorSpec]:
    count = reader.natural(limits.MAX_TENSORS, "tensors")
    specs = []
    for _ in range(count):
        name = _read_name(reader)
        dtype, shape = _read_form(reader)
        # Making the node checks shape and size as for any other.
        input_("input", name, dtype, shape)
        specs.append(TensorSpec(name, dtype, shape))
    return specs


def _read_nodes(reader: Reader) -> list[Node]:
    count = reader.natural(limits.MAX_NODES, "nodes")
    nodes: list[Node] = []
    literals = 0
    for at in range(count):
        number = reader.natural(2**32, "operation")
        if number not in _OPS:
            malformed(f"node {at} has unknown operation {number}", "PROGRAM_UNKNOWN_OP")
        dtype, shape = _read_form(reader)
        sources = []
        for _ in range(reader.natural(limits.MAX_SOURCES, "sources")):
            index = reader.natural(limits.MAX_NODES, "source")
            if index >= at:
                malformed(f"node {at} uses node {index}: a cycle", "PROGRAM_CYCLE")
            sources.append(nodes[index])
        arg = reader.argument(limits.MAX_CONSTANT_BYTES)
        literals += len(arg) if isinstance(arg, bytes) else 0
        if literals > limits.MAX_CONSTANT_BYTES:
            malformed(f"constants over {limits.MAX_CONSTANT_BYTES} bytes", "PROGRAM_LIMIT")
        nodes.append(make(_OPS[number], tuple(sources), arg, dtype, shape))
    return nodes


def _read_index(reader: Reader, nodes: list[Node]) -> Node:
    index = reader.natural(limits.MAX_NODES, "node")
    if index >= len(nodes):
        malformed(f"node {index} of {len(nodes)}")
    return nodes[index]


_OPS = {int(op): op for op in Op}
