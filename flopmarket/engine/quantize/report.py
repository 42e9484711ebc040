"""What was done to a model and what it cost: the figures that come with every quantised model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from flopmarket.engine.quantize.products import Left


@dataclass(frozen=True, slots=True)
class Layer:
    """One quantised product or table.

    ``own_db``: signal to quantisation noise of this product alone, fed with float activations;
    ``total_db``: of its result inside the quantised model, the errors of the layers before it
    included. None where there is no noise at all, or no signal. ``activation`` says how the other
    operand is coded.
    """

    name: str
    bits: int
    operations: int
    activation: str
    own_db: float | None
    total_db: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """Figures of a quantisation; text by ``str``, plain data by :meth:`to_dict`.

    ``before`` and ``after`` are the metric of the float and of the quantised model. Sizes are bytes
    of stored values. ``integer_share``: of the multiplications and additions of all products, those
    that are integer.
    """

    metric: str
    before: float
    after: float
    max_loss: float
    layers: tuple[Layer, ...]
    left: tuple[Left, ...]
    bytes_before: int
    bytes_after: int
    integer_share: float
    neighbours_kept: float | None = None

    @property
    def loss(self) -> float:
        """How much of the metric was lost; negative if it grew."""
        return self.before - self.after

    @property
    def accepted(self) -> bool:
        """Whether the loss is a number within ``max_loss``."""
        return self.loss <= self.max_loss

    @property
    def worst(self) -> Layer | None:
        """The product whose own error is largest."""
        measured = [layer for layer in self.layers if layer.own_db is not None]
        return min(measured, key=lambda layer: layer.own_db or 0.0, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        worst = self.worst
        return {
            **asdict(self),
            "layers": [asdict(layer) for layer in self.layers],
            "left": [asdict(item) for item in self.left],
            "loss": self.loss,
            "accepted": self.accepted,
            "worst": None if worst is None else worst.name,
        }

    def summary(self) -> str:
        """One line: the metric, the size, the share of integers, the worst layer."""
        worst = self.worst
        last = f"; worst {worst.name} at {worst.own_db:.1f} dB" if worst is not None else ""
        return (
            f"{self.metric} {self.before:.4f} -> {self.after:.4f} "
            f"(lost {self.loss:.4f}, at most {self.max_loss:g}); "
            f"{self.bytes_before:,} -> {self.bytes_after:,} bytes; "
            f"{self.integer_share:.1%} of products' operations integer{last}"
        )

    def __str__(self) -> str:
        lines = [self.summary()]
        if self.neighbours_kept is not None:
            lines.append(f"nearest neighbours kept: {self.neighbours_kept:.1%}")
        names = [layer.name for layer in self.layers] + [item.name for item in self.left]
        width = max(map(len, names), default=0)
        lines.append(f"{'layer':{width}} bits {'operations':>14} {'own dB':>7} {'total':>7}  codes")
        lines += [
            f"{layer.name:{width}} {layer.bits:4} {layer.operations:14,} {_db(layer.own_db)} "
            f"{_db(layer.total_db)}  {layer.activation}"
            for layer in self.layers
        ]
        lines += [
            f"{item.name:{width}}    - {item.operations:14,} {'':15}  float: {item.reason}"
            for item in self.left
        ]
        return "\n".join(lines)


def _db(value: float | None) -> str:
    return f"{'-':>7}" if value is None else f"{value:7.1f}"
