"""Text drawn as an image, and what the PP-OCR models expect of pixels and give back.

Normalisations are those of PaddleOCR: detector with ImageNet means and deviations, recogniser and
classifier (x / 255 - 0.5) / 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Array = np.ndarray[Any, Any]

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def page(text: str, size: tuple[int, int], at: tuple[int, int], points: int = 40) -> Array:
    """uint8 [height, width, 3]: dark ``text`` on white, its upper left corner at ``at``."""
    image = Image.new("RGB", size, "white")
    font = ImageFont.load_default(points)
    ImageDraw.Draw(image).text(at, text, fill=(20, 20, 20), font=font)
    return np.asarray(image)


def for_detector(image: Array) -> Array:
    """float32 [1, 3, height, width]; both sides must be multiples of 32."""
    scaled = (image.astype(np.float32) / 255 - _MEAN) / _DEVIATION
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def for_reader(image: Array, size: tuple[int, int]) -> Array:
    """float32 [1, 3, height, width]: resized to ``size`` = (width, height), scaled to [-1, 1]."""
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    scaled = (resized.astype(np.float32) / 255 - 0.5) / 0.5
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def box(probability: Array, threshold: float = 0.3, margin: int = 14) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) around every pixel of a detector's map above ``threshold``.

    The map marks the core of the text; ``margin`` pixels around it belong to the letters.
    """
    rows, columns = np.nonzero(probability[0, 0] > threshold)
    if not len(rows):
        raise ValueError("the detector found no text")
    height, width = probability.shape[2:]
    left, right = max(0, columns.min() - margin), min(width, columns.max() + margin)
    top, bottom = max(0, rows.min() - margin), min(height, rows.max() + margin)
    return int(left), int(top), int(right), int(bottom)


def read(scores: Array, characters: Sequence[str]) -> str:
    """Best path of a recogniser's [1, time, classes]: class 0 is blank, repeats are one."""
    best = scores[0].argmax(axis=1)
    alphabet = ["", *characters, " "]
    previous = np.concatenate([[0], best[:-1]])
    return "".join(
        alphabet[now] for now, before in zip(best, previous, strict=True) if now != before
    )
