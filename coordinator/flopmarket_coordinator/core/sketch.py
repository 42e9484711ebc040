"""How volume spreads over prices: a histogram with exact volumes and close quantiles.

Buckets are those of a floating-point number with 8 significant bits: each price below 256 has its
own, above that a bucket is at most 1/128 of its prices wide. A quantile is the middle of its
bucket, at most 1/256 (0.4 %) away from the exact one. Volumes are exact integers, so the order in
which trades arrive changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_SIGNIFICANT_BITS = 8
_HALF = 1 << (_SIGNIFICANT_BITS - 1)

Sketch = Mapping[int, int]
"""Volume by bucket; buckets without volume are absent."""


def bucket_of(price: int) -> int:
    """The bucket of a price from zero up. Buckets are in the order of their prices."""
    shift = max(0, price.bit_length() - _SIGNIFICANT_BITS)
    return shift * _HALF + (price >> shift)


def middle_of(bucket: int) -> int:
    """The price in the middle of a bucket, rounded down."""
    shift = max(0, bucket // _HALF - 1)
    width = 1 << shift
    return (bucket - shift * _HALF) * width + (width - 1) // 2


def added(sketch: Sketch, price: int, volume: int) -> dict[int, int]:
    """The sketch with ``volume`` more at ``price``."""
    bucket = bucket_of(price)
    return {**sketch, bucket: sketch.get(bucket, 0) + volume}


def quantiles(sketch: Sketch, percents: Sequence[int]) -> list[int]:
    """For each of ``percents``, ascending, the least price at or below which so much of the volume
    lies, 1/256 off at most; zeros for a sketch without volume.
    """
    total = sum(sketch.values())
    found: list[int] = []
    below = 0
    for bucket in sorted(sketch):
        below += sketch[bucket]
        while len(found) < len(percents) and below * 100 >= total * percents[len(found)]:
            found.append(middle_of(bucket))
    return found or [0] * len(percents)


def to_bytes(sketch: Sketch) -> bytes:
    """The one byte form of a sketch: bucket, volume, bucket, ... as variable-length integers."""
    out = bytearray()
    for bucket in sorted(sketch):
        _write(out, bucket)
        _write(out, sketch[bucket])
    return bytes(out)


def from_bytes(data: bytes) -> dict[int, int]:
    """The sketch that :func:`to_bytes` wrote."""
    numbers: list[int] = []
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
        else:
            numbers.append(value)
            value = shift = 0
    return dict(zip(numbers[::2], numbers[1::2], strict=True))


def _write(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
