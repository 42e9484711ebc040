"""A clip of speech-like sound: glottal pulses through the formants of vowels, in silence.

Formant frequencies are those of Peterson and Barney, "Control methods used in a study of the
vowels", 1952.
"""

from __future__ import annotations

from typing import Any

import numpy as np

RATE = 16_000
"""Samples a second."""

SPEECH = (0.8, 2.1)
"""Seconds between which the vowels sound, in a clip of 3 seconds."""

_FORMANTS = {
    "a": ((730, 90), (1090, 110), (2440, 170)),
    "e": ((530, 70), (1840, 100), (2480, 170)),
    "i": ((270, 60), (2290, 100), (3010, 170)),
    "o": ((570, 80), (840, 100), (2410, 170)),
    "u": ((300, 60), (870, 90), (2240, 170)),
}
"""(Hz, bandwidth in Hz) of the first three resonances."""


def clip(vowels: str = "aieouae", seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """3 seconds, float32 in [-1, 1]: faint noise, and ``vowels`` one after the other."""
    rng = np.random.default_rng(seed)
    sound = 0.001 * rng.standard_normal(3 * RATE)
    at = int(SPEECH[0] * RATE)
    for number, vowel in enumerate(vowels):
        part = _vowel(vowel, 120.0 - 4 * number, rng)
        sound[at : at + len(part)] += part
        at += int(0.19 * RATE)
    return sound.astype(np.float32)


def _vowel(name: str, pitch: float, rng: np.random.Generator, seconds: float = 0.16) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    phase = np.cumsum(pitch * (1 + 0.03 * np.sin(2 * np.pi * 5 * time))) / RATE
    sound = np.diff(np.floor(phase), prepend=0.0) + 0.02 * rng.standard_normal(len(time))
    for frequency, bandwidth in _FORMANTS[name]:
        sound = _resonate(sound, frequency, bandwidth)
    envelope = np.minimum(1.0, np.minimum(time / 0.03, (seconds - time) / 0.05))
    return 0.5 * envelope * sound


def _resonate(sound: np.ndarray, frequency: float, bandwidth: float) -> np.ndarray:
    """A two-pole resonator, scaled to a largest magnitude of 1."""
    radius = np.exp(-np.pi * bandwidth / RATE)
    first, second = 2 * radius * np.cos(2 * np.pi * frequency / RATE), -radius * radius
    result = np.zeros_like(sound)
    before = earlier = 0.0
    for at, sample in enumerate(sound):
        before, earlier = sample + first * before + second * earlier, before
        result[at] = before
    return result / np.max(np.abs(result))
