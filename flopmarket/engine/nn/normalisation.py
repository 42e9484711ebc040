"""Normalisations as modules; weights begin at 1, biases at 0."""

from __future__ import annotations

from flopmarket.engine import functional
from flopmarket.engine.nn.initialisers import constant
from flopmarket.engine.nn.module import Buffer, Module, Parameter
from flopmarket.engine.tensor import Tensor


class LayerNorm(Module):
    """Normalises the trailing axes."""

    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        self.normalized_shape, self.eps = shape, eps
        moved = elementwise_affine and bias
        self.register("weight", Parameter(shape, constant(1.0)) if elementwise_affine else None)
        self.register("bias", Parameter(shape, constant(0.0)) if moved else None)

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """Divides by the root of the mean square of the trailing axes."""

    weight: Tensor | None

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float | None = None,
        elementwise_affine: bool = True,
    ) -> None:
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        self.normalized_shape, self.eps = shape, eps
        self.register("weight", Parameter(shape, constant(1.0)) if elementwise_affine else None)

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class _ChannelNorm(Module):
    """Weight and bias [C]."""

    weight: Tensor | None
    bias: Tensor | None

    def _register(self, channels: int, affine: bool) -> None:
        shape = (channels,)
        self.register("weight", Parameter(shape, constant(1.0)) if affine else None)
        self.register("bias", Parameter(shape, constant(0.0)) if affine else None)


class GroupNorm(_ChannelNorm):
    """Normalises [N, C, ..] over the channels of each group and all places."""

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True
    ) -> None:
        self.num_groups, self.eps = num_groups, eps
        self._register(num_channels, affine)

    def forward(self, x: Tensor) -> Tensor:
        return functional.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class InstanceNorm2d(_ChannelNorm):
    """Normalises every channel of every sample of [N, C, ..] over its places.

    Running statistics are not kept.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = False) -> None:
        self.eps = eps
        self._register(num_features, affine)

    def forward(self, x: Tensor) -> Tensor:
        return functional.instance_norm(x, None, None, self.weight, self.bias, eps=self.eps)


class InstanceNorm1d(InstanceNorm2d):
    """The same for [N, C, L]."""


class InstanceNorm3d(InstanceNorm2d):
    """The same for [N, C, D, H, W]."""


class BatchNorm2d(_ChannelNorm):
    """Normalises every channel of [N, C, ..]; running statistics are buffers [C].

    torch's ``num_batches_tracked`` is not kept: only the exponential average is offered.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        self.eps, self.momentum = eps, momentum
        self._register(num_features, affine)
        self.register("running_mean", Buffer((num_features,), constant(0.0)))
        self.register("running_var", Buffer((num_features,), constant(1.0)))

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


class BatchNorm3d(BatchNorm2d):
    """The same for [N, C, D, H, W]."""


class LocalResponseNorm(Module):
    """Divides by a power of the mean square over ``size`` neighbouring channels."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        return functional.local_response_norm(x, self.size, self.alpha, self.beta, self.k)
