"""The base of everything with parameters: a tree of parameters, buffers and modules.

State dicts follow the order of definition. Values are looked up through a binding while ``apply``
runs, so a module is a pure function of a state and holds none of its own then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from flopmarket.engine import buffers, random
from flopmarket.engine.dtypes import DType, float32
from flopmarket.engine.errors import EngineError
from flopmarket.engine.graph import Shape
from flopmarket.engine.nn.initialisers import Initialiser
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A float tensor that training changes: its shape and how it begins."""

    shape: Shape
    initialiser: Initialiser
    dtype: DType = float32


@dataclass(frozen=True, slots=True)
class Buffer:
    """A tensor that the module itself updates in training, such as running statistics.

    A ``fixed`` one never changes: jobs keep it with the frozen tensors instead of the state.
    """

    shape: Shape
    initialiser: Initialiser
    dtype: DType = float32
    fixed: bool = False


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

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """What the module computes; subclasses define it, with the arguments they want."""
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
        if tensor.shape != member.shape or tensor.dtype is not member.dtype:
            raise EngineError(
                f"{type(self).__name__}.{name} is {member.dtype}{list(member.shape)}, "
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

    def members(self) -> dict[str, Parameter | Buffer]:
        """Every parameter and buffer by its full name, in order of definition."""
        named = ((name, owner._members[own]) for name, owner, own in self._named())
        return {n: member for n, member in named if isinstance(member, Parameter | Buffer)}

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
        self, state: Mapping[str, Tensor], *inputs: Any, training: bool = True
    ) -> tuple[Any, dict[str, Tensor]]:
        """``forward`` as a function of ``state``: the result and the next value of every buffer.

        ``inputs`` and the result are what ``forward`` takes and gives: tensors, or mappings of
        them for models of several.

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

    def __call__(self, *inputs: Any, **options: Any) -> Tensor:
        if _binding.get() is None and any(own not in m._values for _, m, own in self._named()):
            self.load_state_dict(self.init(0))
        result: Tensor = self.forward(*inputs, **options)
        return result


def _check_names(given: Mapping[str, Any], wanted: list[str]) -> None:
    for name in wanted:
        if name not in given:
            raise EngineError(f"the state has no {name!r}", code="STATE_NAMES")
    unknown = [name for name in given if name not in set(wanted)]
    if unknown:
        raise EngineError(f"the model has no {unknown[0]!r}", code="STATE_NAMES")
