"""Modules with torch's names: trees of parameters and buffers around ``functional``.

A module holds no randomness and needs no global state. Two ways to use one:

- ``module.init(seed)`` gives its first state as arrays (the same bits everywhere: the initial
  values are an FX1 program over Philox), ``module.apply(state, x)`` is a pure function of a state;
  training steps are built from these two.
- ``module(x)`` is torch's way: it uses the values loaded by ``load_state_dict``, or those of
  ``init(0)`` if none were.

Write one by assigning :class:`Parameter`, :class:`Buffer` and other modules as attributes and
defining ``forward`` (or ``register``). State dicts follow the order of definition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from math import prod
from typing import Any, Self

import numpy as np

from flopmarket.engine import buffers, compose, functional, random
from flopmarket.engine.dtypes import float32
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional.layers import Pair
from flopmarket.engine.graph import Node, Shape
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]
Initialiser = Callable[[Node, int, Shape], Node]
"""(seed uint32[2], ordinal of the parameter in its model, shape) to a float32 node."""


def constant(value: float) -> Initialiser:
    """Every element ``value``."""
    return lambda seed, ordinal, shape: compose.literal(value, float32, shape)


def uniform(bound: float) -> Initialiser:
    """Uniform in [-bound, bound)."""
    return lambda seed, ordinal, shape: random.uniform(
        seed, random.INITIAL, ordinal, shape, -bound, bound
    )


def normal(deviation: float) -> Initialiser:
    """Normal around 0."""

    def build(seed: Node, ordinal: int, shape: Shape) -> Node:
        return (Tensor(random.normal(seed, random.INITIAL, ordinal, shape)) * deviation).node

    return build


@dataclass(frozen=True, slots=True)
class Parameter:
    """A float32 tensor that training changes: its shape and how it begins."""

    shape: Shape
    initialiser: Initialiser


@dataclass(frozen=True, slots=True)
class Buffer:
    """A float32 tensor that the module itself updates in training, such as running statistics."""

    shape: Shape
    initialiser: Initialiser


@dataclass(slots=True)
class _Binding:
    """The values that attribute access sees during one ``apply``, and the buffers it set."""

    values: dict[tuple[Module, str], Tensor]
    training: bool
    updates: dict[tuple[Module, str], Tensor] = field(default_factory=dict)


_binding: ContextVar[_Binding | None] = ContextVar("flopmarket_module_binding", default=None)


class Module:
    """Base class of everything with parameters."""

    _members: dict[str, Parameter | Buffer | Module]
    _values: dict[str, Tensor]
    _training: bool

    def __new__(cls, *args: Any, **options: Any) -> Self:
        module = super().__new__(cls)
        for name, value in (("_members", {}), ("_values", {}), ("_training", True)):
            object.__setattr__(module, name, value)
        return module

    def forward(self, x: Tensor) -> Tensor:
        """What the module computes; subclasses define it."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    # ------------------------------------------------------------ attributes

    def register(self, name: str, member: Parameter | Buffer | Module | None) -> None:
        """Same as assigning the attribute, for code whose type checker expects a Tensor there."""
        setattr(self, name, member)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter | Buffer | Module):
            self._members[name] = value
        elif isinstance(self._members.get(name), Parameter | Buffer):
            self._set(name, value)
        else:
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        member = self.__dict__.get("_members", {}).get(name)
        if isinstance(member, Module):
            return member
        if member is None:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        bound = _binding.get()
        if bound is not None and (self, name) in bound.values:
            return bound.updates.get((self, name), bound.values[self, name])
        if name not in self._values:
            raise EngineError(
                f"{type(self).__name__}.{name} has no value yet",
                code="PARAMETER_UNSET",
                hint="load_state_dict(module.init(seed)) gives it one",
            )
        return self._values[name]

    def _set(self, name: str, value: Any) -> None:
        tensor = value if isinstance(value, Tensor) else Tensor(value)
        member = self._members[name]
        assert isinstance(member, Parameter | Buffer)
        if tensor.shape != member.shape or tensor.dtype is not float32:
            raise EngineError(
                f"{type(self).__name__}.{name} is float32{list(member.shape)}, "
                f"not {tensor.dtype}{list(tensor.shape)}",
                code="SHAPE_MISMATCH",
            )
        bound = _binding.get()
        if bound is not None and (self, name) in bound.values:
            bound.updates[self, name] = tensor
        else:
            self._values[name] = tensor

    # ------------------------------------------------------------ walking

    def _named(self, prefix: str = "") -> Iterator[tuple[str, Module, str]]:
        """(full name, owner, own name) of every parameter and buffer, in order of definition.

        A module reached twice counts where it is met first.
        """
        seen: set[Module] = {self}
        waiting: list[tuple[str, Module, Iterator[str]]] = [(prefix, self, iter(self._members))]
        while waiting:
            path, module, names = waiting[-1]
            for name in names:
                member = module._members[name]
                if not isinstance(member, Module):
                    yield path + name, module, name
                elif member not in seen:
                    seen.add(member)
                    waiting.append((f"{path}{name}.", member, iter(member._members)))
                    break
            else:
                waiting.pop()

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once, depth first."""
        seen: list[Module] = []
        waiting: list[Module] = [self]
        while waiting:
            module = waiting.pop()
            if module in seen:
                continue
            seen.append(module)
            yield module
            below = [m for m in module._members.values() if isinstance(m, Module)]
            waiting.extend(reversed(below))

    def named_parameters(self) -> dict[str, Parameter]:
        """Every parameter by its full name, such as "0.weight"."""
        members = ((name, owner._members[own]) for name, owner, own in self._named())
        return {name: member for name, member in members if isinstance(member, Parameter)}

    def named_buffers(self) -> dict[str, Buffer]:
        """Every buffer by its full name."""
        members = ((name, owner._members[own]) for name, owner, own in self._named())
        return {name: member for name, member in members if isinstance(member, Buffer)}

    def state_names(self) -> list[str]:
        """Full names of all parameters and buffers, in order of definition."""
        return [name for name, _, _ in self._named()]

    def train(self, mode: bool = True) -> Self:
        """Switch direct calls between training and evaluation; returns self."""
        for module in self.modules():
            object.__setattr__(module, "_training", mode)
        return self

    def eval(self) -> Self:
        """Same as ``train(False)``."""
        return self.train(False)

    @property
    def training(self) -> bool:
        """Whether the running call trains."""
        bound = _binding.get()
        return self._training if bound is None else bound.training

    # ------------------------------------------------------------ values

    def init(self, seed: int, device: str | None = None) -> dict[str, Array]:
        """The first values of all parameters and buffers, a function of ``seed`` alone."""
        key = random.key(seed)
        names, nodes = [], []
        for ordinal, (name, owner, own) in enumerate(self._named()):
            member = owner._members[own]
            assert isinstance(member, Parameter | Buffer)
            names.append(name)
            nodes.append(member.initialiser(key, ordinal, member.shape))
        return dict(zip(names, buffers.realise(nodes, device), strict=True))

    def load_state_dict(self, state: Mapping[str, Array | Tensor]) -> Self:
        """Give direct calls these values; every name must be there. Returns self."""
        named = list(self._named())
        _check_names(state, [name for name, _, _ in named])
        for name, owner, own in named:
            owner._set(own, state[name])
        return self

    def state_dict(self) -> dict[str, Array]:
        """The values of direct calls as arrays, in order of definition."""
        return {name: getattr(owner, own).numpy() for name, owner, own in self._named()}

    def apply(
        self, state: Mapping[str, Tensor], *inputs: Tensor, training: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``forward`` as a function of ``state``: the result and the next value of every buffer.

        ``state`` names all parameters and buffers. Raises EngineError (STATE_NAMES).
        """
        named = list(self._named())
        _check_names(state, [name for name, _, _ in named])
        values = {(owner, own): state[name] for name, owner, own in named}
        bound = _Binding(values, training)
        token = _binding.set(bound)
        try:
            result = self.forward(*inputs)
        finally:
            _binding.reset(token)
        return result, {
            name: bound.updates.get((owner, own), values[owner, own])
            for name, owner, own in named
            if isinstance(owner._members[own], Buffer)
        }

    def __call__(self, *inputs: Tensor) -> Tensor:
        if _binding.get() is None and any(own not in m._values for _, m, own in self._named()):
            self.load_state_dict(self.init(0))
        return self.forward(*inputs)


def _check_names(given: Mapping[str, Any], wanted: list[str]) -> None:
    for name in wanted:
        if name not in given:
            raise EngineError(f"the state has no {name!r}", code="STATE_NAMES")
    unknown = [name for name in given if name not in set(wanted)]
    if unknown:
        raise EngineError(f"the model has no {unknown[0]!r}", code="STATE_NAMES")


# ---------------------------------------------------------------- layers


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


class Conv2d(Module):
    """[N, C, H, W] -> [N, O, OH, OW]; weight [O, C/groups, KH, KW], bounds as in torch."""

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise EngineError(
                f"{in_channels} and {out_channels} channels do not divide into {groups} groups",
                code="SHAPE_MISMATCH",
            )
        kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        shape = (out_channels, in_channels // groups, *kernel)
        bound = max(1, prod(shape[1:])) ** -0.5
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.register("weight", Parameter(shape, uniform(bound)))
        self.register("bias", Parameter((out_channels,), uniform(bound)) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class Embedding(Module):
    """Integers [..] -> rows [.., embedding_dim] of a standard normal weight."""

    weight: Tensor

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        self.register("weight", Parameter((num_embeddings, embedding_dim), normal(1.0)))

    def forward(self, x: Tensor) -> Tensor:
        return functional.embedding(x, self.weight)


class LayerNorm(Module):
    """Normalises the trailing axes; weight begins at 1 and bias at 0."""

    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
    ) -> None:
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        self.normalized_shape, self.eps = shape, eps
        self.register("weight", Parameter(shape, constant(1.0)) if elementwise_affine else None)
        self.register("bias", Parameter(shape, constant(0.0)) if elementwise_affine else None)

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class BatchNorm2d(Module):
    """Normalises every channel of [N, C, ..]; running statistics are buffers [C].

    torch's ``num_batches_tracked`` is not kept: only the exponential average is offered.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        self.eps, self.momentum = eps, momentum
        shape = (num_features,)
        self.register("weight", Parameter(shape, constant(1.0)) if affine else None)
        self.register("bias", Parameter(shape, constant(0.0)) if affine else None)
        self.register("running_mean", Buffer(shape, constant(0.0)))
        self.register("running_var", Buffer(shape, constant(1.0)))

    def forward(self, x: Tensor) -> Tensor:
        result = functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )
        if self.training:
            self.running_mean, self.running_var = result.running_mean, result.running_var
        return result.output


class BatchNorm1d(BatchNorm2d):
    """The same for [N, C] and [N, C, L]."""


class Dropout(Module):
    """Zeros with probability ``p`` in training, scaled; the identity in evaluation."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.p, self.training)


class MaxPool2d(Module):
    """Largest of every window."""

    def __init__(self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(x, self.kernel_size, self.stride, self.padding)


class AvgPool2d(MaxPool2d):
    """Mean of every window, padding included."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, self.kernel_size, self.stride, self.padding)


class Flatten(Module):
    """[N, ..] -> [N, everything else]."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self.start_dim, self.end_dim)


class ReLU(Module):
    """max(0, x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu()


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh()


class Sigmoid(Module):
    """1 / (1 + e**-x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid()


class GELU(Module):
    """x * (1 + erf(x / sqrt 2)) / 2."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(x)


class Softmax(Module):
    """e**x over its sum along ``dim``."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(self.dim)


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
