"""DOT in the order of FX1: which kernel computes it, and the packed one with all around it fused.

Large products of floats up to 32 bits and of 8-bit integers go through ``templates/gemm.py``: their
operands' prologues become packing kernels (``pack.py``) and the epilogue becomes the store of the
product kernel. The others, and products with a valid length, are computed by ``direct.py``; large
ones under FAST on a GPU by ``tiled.py``.
"""

from __future__ import annotations

from flopmarket.engine import dtypes, views
from flopmarket.engine.codegen import nest as nests
from flopmarket.engine.codegen import opencl
from flopmarket.engine.codegen.direct import lower_direct
from flopmarket.engine.codegen.emit import Temp
from flopmarket.engine.codegen.loops import Scope, Value, render
from flopmarket.engine.codegen.lower import Lowering
from flopmarket.engine.codegen.opencl import OPAQUE
from flopmarket.engine.codegen.pack import pack
from flopmarket.engine.codegen.templates import gemm
from flopmarket.engine.codegen.tiled import is_tiled, lower_tiled
from flopmarket.engine.exact import DOT_CHUNK
from flopmarket.engine.graph import Node
from flopmarket.engine.schedule.fuse import Kernel, is_packed_dot
from flopmarket.engine.views import variable


def lower_dot(lowering: Lowering, kernel: Kernel) -> None:
    """Append the calls of a DOT kernel."""
    node = kernel.core
    assert node is not None
    if is_tiled(lowering, node):
        lower_tiled(lowering, kernel, node)
    elif lowering.target.is_cpu and is_packed_dot(node):
        _packed(lowering, kernel, node)
    else:
        lower_direct(lowering, kernel, node)


# ---------------------------------------------------------------- the packed kernel


def _packed(lowering: Lowering, kernel: Kernel, node: Node) -> None:
    batch, M, N = node.shape
    K = node.src[0].shape[2]
    target = lowering.target
    shared_a, shared_b = (lowering.is_shared(kernel, s) for s in node.src[:2])
    store = _Store(lowering, kernel, node)
    store.render()
    spec = gemm.GemmSpec(
        M=M,
        N=N,
        K=K,
        tile=lowering.tile(M, N, K),
        store=lambda b, m, n, value: store.text,
        parameters=store.parameters(),
        batch=batch,
        shared_a=shared_a,
        shared_b=shared_b,
        name=nests.NAME,
        contract_helper=target.contract_helper,
        compute_units=target.compute_units,
        integer=not node.dtype.is_float,
        chunk=_chunk(node),
    )
    packed = []
    for operand, source, shared, size_bytes in (
        ("a", node.src[0], shared_a, gemm.packed_a_bytes(spec)),
        ("b", node.src[1], shared_b, gemm.packed_b_bytes(spec)),
    ):
        packed.append(_pack(lowering, kernel, spec, operand, source, shared, size_bytes))
    text = gemm.render_gemm(spec)
    emitter = store.emitter
    keys = (*packed, *emitter.parameters)
    written = frozenset(at + 2 for at, p in enumerate(emitter.parameters.values()) if p.written)
    lowering.calls.append(
        nests.Call(
            nests.family_of("gemm", emitter),
            text,
            keys,
            written,
            OPAQUE in text,
            gemm.global_size(spec),
            (1, 1, 1),
            2 * batch * M * N * K,
            sum(key.elements * key.dtype.size_bytes for key in keys),
            gemm.size_arguments(spec),
        )
    )


def _chunk(node: Node) -> int:
    """Terms of one chain: FX1's for floats, as many as floats sum exactly for 8-bit integers."""
    if node.dtype.is_float:
        return DOT_CHUNK
    left, right = (dtypes.largest_magnitude(source.dtype) for source in node.src[:2])
    return gemm.exact_chunk(left * right)


class _Store:
    """The epilogue as a statement block over ``b``, ``m0 + i``, ``n0 + j`` and ``value``."""

    def __init__(self, lowering: Lowering, kernel: Kernel, node: Node) -> None:
        self.lowering, self.kernel, self.node = lowering, kernel, node
        self.emitter = lowering.emitter(kernel, wide=True)
        self.text = ""

    def render(self) -> None:
        if self.kernel.roots == (self.node,) and self.node.elements <= 2**31 - 2**20:
            self._render_plain()
            return
        scope = self._fill()
        if not nests.is_wide(self.emitter.forms):
            self.emitter = self.lowering.emitter(self.kernel, wide=False)
            scope = self._fill()
        kind = self.emitter.index_type
        head = f"{{ const {kind} gm = m0 + i; const {kind} gn = n0 + j;\n"
        self.text = f"{head}{render(scope.body, 6)}\n          }}"

    def _render_plain(self) -> None:
        """Nothing is fused: a text without sizes, which products of all sizes share."""
        self.emitter = self.lowering.emitter(self.kernel, wide=False)
        target = self.emitter.parameter(self.node, written=True).name
        value = opencl.stored("value", self.node.dtype, final=self.node in self.lowering.final)
        self.text = f"{target}[(b * M + m0 + i) * N + n0 + j] = {value};"

    def _fill(self) -> Scope:
        scope = Scope(0, [])
        batch, M, N = self.node.shape
        index = (variable("b", batch, 0), variable("gm", M, 0), variable("gn", N, 0))
        flat = views.flatten(index, self.node.shape)
        self.emitter.bind(self.node, flat, Value("value", 0))
        self.lowering.store_roots(self.emitter, self.kernel, flat, scope)
        return scope

    def parameters(self) -> str:
        declared = [p.declaration() for p in self.emitter.parameters.values()]
        if OPAQUE in self.text:
            declared.append(f"const uint {OPAQUE}")
        return ", ".join(declared)


def _pack(
    lowering: Lowering,
    kernel: Kernel,
    spec: gemm.GemmSpec,
    operand: str,
    source: Node,
    shared: bool,
    size_bytes: int,
) -> Temp:
    """Append the packing of one operand; packing of an equal operand is found again."""
    key = (operand, source, spec.tile, spec.block_panels if operand == "a" else 0)
    found = lowering.packed.get(key)
    if found is not None:
        return found
    temp = lowering.temp(dtypes.float32, size_bytes // 4)
    lowering.packed[key] = temp

    lowering.calls.append(pack(lowering, kernel, spec, operand, source, shared, temp))
    return temp
