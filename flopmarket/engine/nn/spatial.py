"""Pooling, resampling and shuffles as modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flopmarket.engine import functional
from flopmarket.engine.functional.adaptive import OutputSize, adaptive_avg_pool, adaptive_max_pool
from flopmarket.engine.functional.arguments import Lengths, Padding
from flopmarket.engine.functional.pooling import avg_pool, lp_pool, max_pool
from flopmarket.engine.nn.module import Module
from flopmarket.engine.tensor import Tensor


class MaxPool2d(Module):
    """Largest of every window of [N, C, H, W]; with ``return_indices`` also its position."""

    dims = 2

    def __init__(
        self,
        kernel_size: Lengths,
        stride: Lengths | None = None,
        padding: Padding = 0,
        dilation: Lengths = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.dilation, self.return_indices, self.ceil_mode = dilation, return_indices, ceil_mode

    def forward(self, x: Tensor) -> Any:
        return max_pool(
            *(x, self.kernel_size, self.stride, self.padding, self.dilation),
            *(self.ceil_mode, self.return_indices),
            dims=self.dims,
        )


class MaxPool1d(MaxPool2d):
    """Largest of every window of [N, C, L]."""

    dims = 1


class MaxPool3d(MaxPool2d):
    """Largest of every window of [N, C, D, H, W]."""

    dims = 3


class AvgPool2d(Module):
    """Mean of every window of [N, C, H, W], padding included if ``count_include_pad``."""

    dims = 2

    def __init__(
        self,
        kernel_size: Lengths,
        stride: Lengths | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def forward(self, x: Tensor) -> Tensor:
        return avg_pool(
            *(x, self.kernel_size, self.stride, self.padding, 1),
            *(self.ceil_mode, self.count_include_pad, self.divisor_override),
            dims=self.dims,
        )


class AvgPool1d(AvgPool2d):
    """Mean of every window of [N, C, L]."""

    dims = 1


class AvgPool3d(AvgPool2d):
    """Mean of every window of [N, C, D, H, W]."""

    dims = 3


class LPPool2d(Module):
    """p-norm of every window of [N, C, H, W]."""

    dims = 2

    def __init__(
        self,
        norm_type: float,
        kernel_size: Lengths,
        stride: Lengths | None = None,
        ceil_mode: bool = False,
    ) -> None:
        self.norm_type, self.kernel_size = norm_type, kernel_size
        self.stride, self.ceil_mode = stride, ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        return lp_pool(
            *(x, self.norm_type, self.kernel_size, self.stride, 0, 1, self.ceil_mode),
            dims=self.dims,
        )


class LPPool1d(LPPool2d):
    """p-norm of every window of [N, C, L]."""

    dims = 1


class LPPool3d(LPPool2d):
    """p-norm of every window of [N, C, D, H, W]."""

    dims = 3


class AdaptiveAvgPool2d(Module):
    """[N, C, H, W] -> [N, C, *output_size], means."""

    dims = 2

    def __init__(self, output_size: OutputSize) -> None:
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        return adaptive_avg_pool(x, self.output_size, dims=self.dims)


class AdaptiveAvgPool1d(AdaptiveAvgPool2d):
    """[N, C, L] -> [N, C, output_size], means."""

    dims = 1


class AdaptiveAvgPool3d(AdaptiveAvgPool2d):
    """[N, C, D, H, W] -> [N, C, *output_size], means."""

    dims = 3


class AdaptiveMaxPool2d(Module):
    """[N, C, H, W] -> [N, C, *output_size], largest."""

    dims = 2

    def __init__(self, output_size: OutputSize, return_indices: bool = False) -> None:
        self.output_size, self.return_indices = output_size, return_indices

    def forward(self, x: Tensor) -> Any:
        return adaptive_max_pool(x, self.output_size, self.return_indices, dims=self.dims)


class AdaptiveMaxPool1d(AdaptiveMaxPool2d):
    """[N, C, L] -> [N, C, output_size], largest."""

    dims = 1


class AdaptiveMaxPool3d(AdaptiveMaxPool2d):
    """[N, C, D, H, W] -> [N, C, *output_size], largest."""

    dims = 3


class Upsample(Module):
    """[N, C, *S] resampled; arguments as ``functional.interpolate`` has them."""

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
    ) -> None:
        self.size, self.scale_factor = size, scale_factor
        self.mode, self.align_corners = mode, align_corners

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(
            x, self.size, self.scale_factor, self.mode, self.align_corners
        )


class PixelShuffle(Module):
    """[.., C * r * r, H, W] -> [.., C, H * r, W * r]."""

    def __init__(self, upscale_factor: int) -> None:
        self.upscale_factor = upscale_factor

    def forward(self, x: Tensor) -> Tensor:
        return functional.pixel_shuffle(x, self.upscale_factor)


class PixelUnshuffle(Module):
    """[.., C, H * r, W * r] -> [.., C * r * r, H, W]."""

    def __init__(self, downscale_factor: int) -> None:
        self.downscale_factor = downscale_factor

    def forward(self, x: Tensor) -> Tensor:
        return functional.pixel_unshuffle(x, self.downscale_factor)


class ChannelShuffle(Module):
    """The channels of each group of [N, C, ..] dealt out in turn."""

    def __init__(self, groups: int) -> None:
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return functional.channel_shuffle(x, self.groups)


class Pad(Module):
    """Elements added around axes; arguments as ``functional.pad`` has them."""

    def __init__(self, pad: Sequence[int], mode: str = "constant", value: float = 0.0) -> None:
        self.pad, self.mode, self.value = tuple(pad), mode, value

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x, self.pad, self.mode, self.value)
