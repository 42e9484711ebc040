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

from flopmarket.engine import limits, loop
from flopmarket.engine.codec import Reader, Writer, malformed
from flopmarket.engine.cost import Cost, measure
from flopmarket.engine.dtypes import DType
from flopmarket.engine.errors import GraphError
from flopmarket.engine.exact import PROFILE
from flopmarket.engine.graph import Node, Op, Shape, input_, topological
from flopmarket.engine.node_codec import NodeReader, NodeWriter, read_form, write_form
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
        self._check_loops()
        everything = [*self.nodes, *(n for body in loop.bodies(self.nodes) for n in body.nodes)]
        edges = sum(len(node.src) for node in everything)
        if edges > limits.MAX_EDGES:
            _refuse(f"{edges} sources, at most {limits.MAX_EDGES}", "PROGRAM_LIMIT")
        literals = sum(len(node.arg) for node in everything if node.op is Op.CONST)
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

    def _check_loops(self) -> None:
        """Nodes and turns stay bounded, however loops stand side by side and inside each other."""
        groups = loop.groups(self.nodes)
        count = len(self.nodes) + sum(group.body.expanded_nodes for group in groups)
        if count > limits.MAX_NODES:
            _refuse(f"{count} nodes, at most {limits.MAX_NODES}", "PROGRAM_LIMIT")
        work = sum(group.count * group.body.work for group in groups)
        if work > limits.MAX_LOOP_WORK:
            _refuse(
                f"its loops evaluate {work} nodes in a step, at most {limits.MAX_LOOP_WORK}",
                "PROGRAM_LIMIT",
            )

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
                write_form(writer, spec.dtype, spec.shape)
        index = NodeWriter(writer).nodes(self.nodes)
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
        node_reader = NodeReader(reader)
        nodes = node_reader.nodes()
        state_nodes = [node_reader.index(nodes) for _ in state]
        count = reader.natural(limits.MAX_TENSORS, "outputs")
        outputs = [(_read_name(reader), node_reader.index(nodes)) for _ in range(count)]
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
        dtype, shape = read_form(reader)
        # Making the node checks shape and size as for any other.
        input_("input", name, dtype, shape)
        specs.append(TensorSpec(name, dtype, shape))
    return specs
