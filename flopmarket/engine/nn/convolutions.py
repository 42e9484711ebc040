"""Convolutions as modules; weights begin within torch's bounds, uniform in 1 / sqrt(fan in)."""

from __future__ import annotations

from math import prod

from flopmarket.engine import functional
from flopmarket.engine.errors import EngineError
from flopmarket.engine.functional.arguments import Lengths, Padding, borders, per_axis
from flopmarket.engine.functional.convolutions import conv, conv_transpose
from flopmarket.engine.nn.initialisers import uniform
from flopmarket.engine.nn.module import Module, Parameter
from flopmarket.engine.tensor import Tensor


class _Convolution(Module):
    """What all of them keep."""

    dims: int
    weight: Tensor
    bias: Tensor | None

    def _register(
        self, shape: tuple[int, ...], channels: tuple[int, int, int], out: int, bias: bool
    ) -> None:
        first, second, groups = channels
        if groups < 1 or first % groups or second % groups:
            raise EngineError(
                f"{first} and {second} channels do not divide into {groups} groups",
                code="SHAPE_MISMATCH",
            )
        bound = max(1, prod(shape[1:])) ** -0.5
        self.register("weight", Parameter(shape, uniform(bound)))
        self.register("bias", Parameter((out,), uniform(bound)) if bias else None)


class Conv2d(_Convolution):
    """[N, C, H, W] -> [N, O, OH, OW]; weight [O, C/groups, KH, KW].

    ``padding_mode``: zeros, reflect, replicate or circular.
    """

    dims = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Lengths,
        stride: Lengths = 1,
        padding: Padding = 0,
        dilation: Lengths = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        self.kernel_size = per_axis(kernel_size, self.dims, "kernel_size")
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.padding_mode = padding_mode
        shape = (out_channels, in_channels // max(1, groups), *self.kernel_size)
        self._register(shape, (in_channels, out_channels, groups), out_channels, bias)

    def forward(self, x: Tensor) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            strides = per_axis(self.stride, self.dims, "stride")
            dilations = per_axis(self.dilation, self.dims, "dilation")
            amounts = borders(padding, self.dims, self.kernel_size, strides, dilations)
            flat = [amount for pair in reversed(amounts) for amount in pair]
            x, padding = functional.pad(x, flat, self.padding_mode), 0
        return conv(
            *(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups),
            dims=self.dims,
        )


class Conv1d(Conv2d):
    """[N, C, L] -> [N, O, OL]; weight [O, C/groups, K]."""

    dims = 1


class Conv3d(Conv2d):
    """[N, C, D, H, W] -> [N, O, OD, OH, OW]; weight [O, C/groups, KD, KH, KW]."""

    dims = 3


class ConvTranspose2d(_Convolution):
    """[N, C, H, W] -> [N, O, OH, OW]; weight [C, O/groups, KH, KW]."""

    dims = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Lengths,
        stride: Lengths = 1,
        padding: Padding = 0,
        output_padding: Lengths = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Lengths = 1,
    ) -> None:
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        self.dilation, self.groups = dilation, groups
        kernel = per_axis(kernel_size, self.dims, "kernel_size")
        shape = (in_channels, out_channels // max(1, groups), *kernel)
        self._register(shape, (in_channels, out_channels, groups), out_channels, bias)

    def forward(self, x: Tensor) -> Tensor:
        return conv_transpose(
            *(x, self.weight, self.bias, self.stride, self.padding, self.output_padding),
            *(self.groups, self.dilation),
            dims=self.dims,
        )


class ConvTranspose1d(ConvTranspose2d):
    """[N, C, L] -> [N, O, OL]; weight [C, O/groups, K]."""

    dims = 1


class ConvTranspose3d(ConvTranspose2d):
    """[N, C, D, H, W] -> [N, O, OD, OH, OW]; weight [C, O/groups, KD, KH, KW]."""

    dims = 3
