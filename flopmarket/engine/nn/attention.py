"""Attention and transformer layers with torch's parameter names, shapes and defaults."""

from __future__ import annotations

from collections.abc import Callable

from flopmarket.engine import functional
from flopmarket.engine.errors import EngineError
from flopmarket.engine.nn.initialisers import constant, uniform
from flopmarket.engine.nn.layers import Dropout, Linear
from flopmarket.engine.nn.module import Module, Parameter
from flopmarket.engine.nn.normalisation import LayerNorm
from flopmarket.engine.tensor import Tensor


class _Projection(Linear):
    """A linear layer whose bias begins at 0."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        if bias:
            self.register("bias", Parameter((out_features,), constant(0.0)))


class MultiheadAttention(Module):
    """torch's module: (output, weights) of query [L, N, E], key [S, N, kdim], value [S, N, vdim].

    Parameters: in_proj_weight [3 E, E], or q_proj_weight, k_proj_weight and v_proj_weight where
    kdim or vdim differ from E; in_proj_bias [3 E]; out_proj. With ``batch_first`` N comes first.
    """

    out_proj: _Projection
    in_proj_bias: Tensor | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
    ) -> None:
        if embed_dim % num_heads:
            raise EngineError(
                f"{embed_dim} features do not divide into {num_heads} heads",
                code="SHAPE_MISMATCH",
            )
        self.num_heads, self.dropout, self.batch_first = num_heads, dropout, batch_first
        widths = (embed_dim, kdim or embed_dim, vdim or embed_dim)
        self.same_widths = len(set(widths)) == 1
        if self.same_widths:
            joined = Parameter((3 * embed_dim, embed_dim), uniform((1.5 / embed_dim) ** 0.5))
            self.register("in_proj_weight", joined)
        else:
            for name, width in zip("qkv", widths, strict=True):
                bound = (6.0 / (embed_dim + width)) ** 0.5
                shape = (embed_dim, width)
                self.register(f"{name}_proj_weight", Parameter(shape, uniform(bound)))
        self.register("in_proj_bias", Parameter((3 * embed_dim,), constant(0.0)) if bias else None)
        self.register("out_proj", _Projection(embed_dim, embed_dim, bias))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Masks: bool True keeps a key out; floats are added. Weights are [N, L, S], averaged over
        the heads, or [N, heads, L, S]; None if not needed. Inputs without a batch are taken too.
        """
        single = query.ndim == 2
        given = (query, key, value)
        if single:
            given = tuple(x.unsqueeze(0) for x in given)  # type: ignore[assignment]
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            given = tuple(x.transpose(0, 1) for x in given)  # type: ignore[assignment]
        output, weights = functional.multi_head_attention(
            *given,
            self.num_heads,
            self._projections(),
            self.in_proj_bias,
            self.out_proj.weight,
            self.out_proj.bias,
            attn_mask=attn_mask,
            key_padding_mask=key_padding_mask,
            is_causal=is_causal,
            dropout_p=self.dropout if self.training else 0.0,
        )
        if average_attn_weights:
            weights = weights.mean(1)
        if single:
            output, weights = output.squeeze(0), weights.squeeze(0)
        elif not self.batch_first:
            output = output.transpose(0, 1)
        return output, weights if need_weights else None

    def _projections(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.same_widths:
            q, k, v = self.in_proj_weight.chunk(3)
            return q, k, v
        return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
}


class _Layer(Module):
    """What encoder and decoder layers share: feed-forward part, norms, residual branches."""

    linear1: Linear
    linear2: Linear

    def _feed_forward_parts(
        self, d_model: int, dim_feedforward: int, dropout: float, activation: str, bias: bool
    ) -> None:
        if activation not in ACTIVATIONS:
            raise EngineError(
                f"no activation {activation!r}: {', '.join(ACTIVATIONS)}",
                code="ACTIVATION_UNKNOWN",
            )
        self.activation = ACTIVATIONS[activation]
        self.register("linear1", Linear(d_model, dim_feedforward, bias))
        self.register("dropout", Dropout(dropout))
        self.register("linear2", Linear(dim_feedforward, d_model, bias))

    def _feed_forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear2(self.dropout(self.activation(self.linear1(x))))
        return result

    def _residual(self, x: Tensor, place: int, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """x + branch(norm(x)), or norm(x + branch(x)), with the norm and dropout of ``place``."""
        norm, drop = getattr(self, f"norm{place}"), getattr(self, f"dropout{place}")
        if self.norm_first:
            added: Tensor = x + drop(branch(norm(x)))
            return added
        normalised: Tensor = norm(x + drop(branch(x)))
        return normalised


class TransformerEncoderLayer(_Layer):
    """Self-attention and a feed-forward part, each with its residual and norm."""

    self_attn: MultiheadAttention

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        self.norm_first = norm_first
        attention = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first)
        self.register("self_attn", attention)
        self._feed_forward_parts(d_model, dim_feedforward, dropout, activation, bias)
        for place in (1, 2):
            self.register(f"norm{place}", LayerNorm(d_model, layer_norm_eps, bias=bias))
        for place in (1, 2):
            self.register(f"dropout{place}", Dropout(dropout))

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        def attention(x: Tensor) -> Tensor:
            return self.self_attn.forward(
                x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal
            )[0]

        return self._residual(self._residual(src, 1, attention), 2, self._feed_forward)


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to a memory, and a feed-forward part."""

    self_attn: MultiheadAttention
    multihead_attn: MultiheadAttention

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        self.norm_first = norm_first
        for name in ("self_attn", "multihead_attn"):
            attention = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first)
            self.register(name, attention)
        self._feed_forward_parts(d_model, dim_feedforward, dropout, activation, bias)
        for place in (1, 2, 3):
            self.register(f"norm{place}", LayerNorm(d_model, layer_norm_eps, bias=bias))
        for place in (1, 2, 3):
            self.register(f"dropout{place}", Dropout(dropout))

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        def own(x: Tensor) -> Tensor:
            return self.self_attn.forward(
                x, x, x, tgt_key_padding_mask, False, tgt_mask, is_causal=tgt_is_causal
            )[0]

        def other(x: Tensor) -> Tensor:
            return self.multihead_attn.forward(
                x,
                memory,
                memory,
                memory_key_padding_mask,
                False,
                memory_mask,
                is_causal=memory_is_causal,
            )[0]

        x = self._residual(self._residual(tgt, 1, own), 2, other)
        return self._residual(x, 3, self._feed_forward)
