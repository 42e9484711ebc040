"""What goes wrong with ONNX models: illegal, beyond what is computed here, or data-dependent."""

from __future__ import annotations

from collections.abc import Iterable

from flopmarket.engine.errors import EngineError


class OnnxIllegal(EngineError):
    """The model is not valid ONNX, or passes a limit of :mod:`limits`."""

    def __init__(self, message: str, *, code: str = "ONNX_ILLEGAL", hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint)


class OnnxUnsupported(EngineError):
    """Valid ONNX that the engine does not compute: an operator, a number format, a version."""

    def __init__(self, message: str, *, code: str = "ONNX_UNSUPPORTED", hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint)


class OnnxDataDependent(EngineError):
    """A shape or a choice depends on a value that is known only when the program runs.

    ``inputs`` are the names of the model inputs that it depends on.
    """

    def __init__(self, message: str, inputs: Iterable[str] = ()) -> None:
        super().__init__(
            message,
            code="ONNX_DATA_DEPENDENT",
            hint="Model.run computes it locally; a program needs shapes that do not depend on data",
        )
        self.inputs = frozenset(inputs)
