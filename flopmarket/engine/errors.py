"""The engine's one error type; it stands alone, as the engine does.

``code`` is stable and UPPER_SNAKE; callers dispatch on it, never on the message.
"""

from __future__ import annotations


class EngineError(Exception):
    """Anything the engine refuses or cannot do.

    ``retryable`` says whether the same call may succeed later (a device out of memory), ``hint``
    says what to do about it.
    """

    def __init__(self, message: str, *, code: str, retryable: bool = False, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retryable = retryable
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]" + (f" ({self.hint})" if self.hint else "")


class GraphError(EngineError):
    """An illegal graph: wrong shape, dtype, argument, or a passed limit."""

    def __init__(self, message: str, *, code: str = "GRAPH_ILLEGAL", hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint)
