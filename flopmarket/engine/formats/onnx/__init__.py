"""ONNX models: ``fm.onnx.load`` gives a :class:`Model` that runs here or becomes a job.

The path of a file: :mod:`read` checks and decodes it, :mod:`interpret` walks its graph and calls
the operators' handlers (:mod:`ops`, found through :mod:`registry`) on lazy tensors, :mod:`model`
runs the result, traces it into a program, and hands it to jobs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flopmarket.engine.formats.onnx.errors import (
        OnnxDataDependent,
        OnnxIllegal,
        OnnxUnsupported,
    )
    from flopmarket.engine.formats.onnx.model import Model, load

__all__ = ["Model", "OnnxDataDependent", "OnnxIllegal", "OnnxUnsupported", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "errors" if name.startswith("Onnx") else "model"
    return getattr(import_module(f"{__name__}.{home}"), name)
