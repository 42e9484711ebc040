"""The class of a device of this machine, as its offer would state it (``trust.device_class``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from flopmarket.engine.classes import classify
from flopmarket.engine.errors import EngineError
from flopmarket.engine.runtime import devices
from flopmarket.engine.runtime.open import REFERENCE, opened
from flopmarket.engine.runtime.resident import CompileOptions
from flopmarket.errors import Unavailable
from flopmarket.jobs.device_names import card_texts
from flopmarket.trust.device_class import DeviceClass, class_digest


def class_of_device(device: str | None, options: CompileOptions | None = None) -> bytes:
    """The class of a device, as in ``devices.find``; None is the first one. Takes seconds.

    Unavailable CLASS_NONE for the reference, which is exact, and for a device that computes its
    fast kernels twice differently.
    """
    try:
        info = None if device == REFERENCE else devices.find(device)
    except EngineError as error:
        if device is not None or error.code != "DEVICE_NONE":
            raise
        info = None
    if info is None:
        raise Unavailable("the reference is exact; it has no class", code="CLASS_NONE")
    with opened(info, options) as handle:
        report = classify(handle)
    if not report.deterministic:
        raise Unavailable(f"{info.name} has no class: {report.reason}", code="CLASS_NONE")
    kernels, results = bytes.fromhex(report.kernels), bytes.fromhex(report.results)
    card: Mapping[str, Any] = asdict(info)
    return class_digest(DeviceClass(*card_texts(card), kernels, results))
