"""flopmarket: a marketplace for verified floating-point work.

    import flopmarket as fm

    job = fm.TrainingJob(model=..., loss=..., optimizer=..., data=(x, y), batch=64, epochs=20)
    job.run_local()                                     # here, with the engine alone
    fm.Client("market.example:7443").run(job)           # on rented workers, verified and paid

The names below are the public surface; a test pins them. They load on first use, so that importing
the package (and ``flop --help``) costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flopmarket.client import Client
    from flopmarket.engine import functional, nn, optim
    from flopmarket.engine.creation import arange, cat, full, ones, stack, where, zeros
    from flopmarket.engine.dtypes import (
        bfloat16,
        bool_,
        float16,
        float32,
        float64,
        int8,
        int16,
        int32,
        int64,
        uint8,
        uint16,
        uint32,
        uint64,
    )
    from flopmarket.engine.errors import EngineError
    from flopmarket.engine.formats import onnx
    from flopmarket.engine.formats.onnx import Model
    from flopmarket.engine.grad import grad
    from flopmarket.engine.program import Program, TensorSpec
    from flopmarket.engine.quantize import quantize
    from flopmarket.engine.runtime.devices import discover as devices
    from flopmarket.engine.tensor import Tensor
    from flopmarket.engine.trace import trace
    from flopmarket.errors import FlopmarketError
    from flopmarket.jobs.job import InferenceJob, TrainingJob
    from flopmarket.jobs.prepared import PreparedJob, Result

__version__ = "0.1.0"

_HOMES = {
    "Client": "flopmarket.client",
    "EngineError": "flopmarket.engine.errors",
    "FlopmarketError": "flopmarket.errors",
    "InferenceJob": "flopmarket.jobs.job",
    "Model": "flopmarket.engine.formats.onnx",
    "PreparedJob": "flopmarket.jobs.prepared",
    "Program": "flopmarket.engine.program",
    "Result": "flopmarket.jobs.prepared",
    "Tensor": "flopmarket.engine.tensor",
    "TensorSpec": "flopmarket.engine.program",
    "TrainingJob": "flopmarket.jobs.job",
    "grad": "flopmarket.engine.grad",
    "quantize": "flopmarket.engine.quantize",
    "trace": "flopmarket.engine.trace",
    **dict.fromkeys(
        ("arange", "cat", "full", "ones", "stack", "where", "zeros"), "flopmarket.engine.creation"
    ),
    **dict.fromkeys(
        (
            *("bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
            *("bfloat16", "float16", "float32", "float64"),
        ),
        "flopmarket.engine.dtypes",
    ),
}
_MODULES = ("functional", "nn", "optim")

__all__ = [
    "Client",
    "EngineError",
    "FlopmarketError",
    "InferenceJob",
    "Model",
    "PreparedJob",
    "Program",
    "Result",
    "Tensor",
    "TensorSpec",
    "TrainingJob",
    "arange",
    "bfloat16",
    "bool_",
    "cat",
    "devices",
    "float16",
    "float32",
    "float64",
    "full",
    "functional",
    "grad",
    "int8",
    "int16",
    "int32",
    "int64",
    "nn",
    "ones",
    "onnx",
    "optim",
    "quantize",
    "stack",
    "trace",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "where",
    "zeros",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value: Any = getattr(import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = import_module(f"flopmarket.engine.{name}")
    elif name == "onnx":
        value = import_module("flopmarket.engine.formats.onnx")
    elif name == "devices":
        value = import_module("flopmarket.engine.runtime.devices").discover
    else:
        raise AttributeError(f"module 'flopmarket' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
