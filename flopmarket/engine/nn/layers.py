"""Linear maps, lookup, dropout, reshaping, and modules made of modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flopmarket.engine import functional
from flopmarket.engine.nn.initialisers import normal, uniform
from flopmarket.engine.nn.module import Module, Parameter
from flopmarket.engine.tensor import Tensor


class Linear(Module):
    """x [.., in] -> [.., out]; weight [out, in] and bias [out] uniform in 1 / sqrt(in)."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        bound = in_features**-0.5 if in_features else 0.0
        self.register("weight", Parameter((out_features, in_features), uniform(bound)))
        self.register("bias", Parameter((out_features,), uniform(bound)) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class Bilinear(Module):
    """a [.., I] and b [.., J] -> [.., O]; weight [O, I, J], uniform in 1 / sqrt(I)."""

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self, in1_features: int, in2_features: int, out_features: int, bias: bool = True
    ) -> None:
        bound = in1_features**-0.5
        shape = (out_features, in1_features, in2_features)
        self.register("weight", Parameter(shape, uniform(bound)))
        self.register("bias", Parameter((out_features,), uniform(bound)) if bias else None)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return functional.bilinear(a, b, self.weight, self.bias)


class Embedding(Module):
    """Integers [..] -> rows [.., embedding_dim] of a standard normal weight.

    Row ``padding_idx`` gets no derivative. It begins like the others; torch begins it at 0.
    """

    weight: Tensor

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None
    ) -> None:
        self.padding_idx = padding_idx
        self.register("weight", Parameter((num_embeddings, embedding_dim), normal(1.0)))

    def forward(self, x: Tensor) -> Tensor:
        return functional.embedding(x, self.weight, self.padding_idx)


class EmbeddingBag(Module):
    """Bags of integers -> the mean, sum or largest of their rows of a standard normal weight."""

    weight: Tensor

    def __init__(self, num_embeddings: int, embedding_dim: int, mode: str = "mean") -> None:
        self.mode = mode
        self.register("weight", Parameter((num_embeddings, embedding_dim), normal(1.0)))

    def forward(self, x: Tensor, offsets: Tensor | None = None) -> Tensor:
        return functional.embedding_bag(x, self.weight, offsets, self.mode)


class Dropout(Module):
    """Zeros with probability ``p`` in training, scaled; the identity in evaluation."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.p, self.training)


class Dropout1d(Dropout):
    """Whole channels of [N, C, L]."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout1d(x, self.p, self.training)


class Dropout2d(Dropout):
    """Whole channels of [N, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout2d(x, self.p, self.training)


class Dropout3d(Dropout):
    """Whole channels of [N, C, D, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout3d(x, self.p, self.training)


class AlphaDropout(Dropout):
    """Dropout for SELU networks: keeps mean and variance."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.alpha_dropout(x, self.p, self.training)


class Identity(Module):
    """x."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Flatten(Module):
    """[N, ..] -> [N, everything else]."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self.start_dim, self.end_dim)


class Unflatten(Module):
    """One axis split into several."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, x: Tensor) -> Tensor:
        axis = self.dim % x.ndim
        return x.reshape(*x.shape[:axis], *self.unflattened_size, *x.shape[axis + 1 :])


class Sequential(Module):
    """Modules one after the other, named "0", "1", ..."""

    def __init__(self, *layers: Module) -> None:
        for at, layer in enumerate(layers):
            setattr(self, str(at), layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self._members.values():
            assert isinstance(layer, Module)
            x = layer(x)
        return x


class ModuleList(Module):
    """Modules named "0", "1", ..., to be called one by one."""

    def __init__(self, layers: Sequence[Module] = ()) -> None:
        for at, layer in enumerate(layers):
            setattr(self, str(at), layer)

    def append(self, layer: Module) -> ModuleList:
        """One more at the end; returns self."""
        setattr(self, str(len(self)), layer)
        return self

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Module]:
        return (layer for layer in self._members.values() if isinstance(layer, Module))

    def __getitem__(self, at: int) -> Module:
        return list(self)[at]
