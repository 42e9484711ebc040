"""The errors of the project: one base class, a code table, and the exit code each one maps to.

Every failure that a user, a peer or a caller can meet is a :class:`FlopmarketError` with a stable
``code`` (UPPER_SNAKE, part of the public surface), a message that names the offending thing and its
limit, whether a retry can help, and a hint. The gRPC status and the CLI exit code are read from
``kind``; nothing parses messages.
"""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What sort of failure it is. Decides the gRPC status and the exit code, nothing else."""

    INTERNAL = "internal"
    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    QUOTA = "quota"
    UNAVAILABLE = "unavailable"


EXIT_CODES: dict[Kind, int] = {
    Kind.INTERNAL: 1,
    Kind.INVALID: 2,
    Kind.UNAUTHENTICATED: 3,
    Kind.FORBIDDEN: 3,
    Kind.NOT_FOUND: 4,
    Kind.CONFLICT: 5,
    Kind.QUOTA: 6,
    Kind.UNAVAILABLE: 7,
}


class FlopmarketError(Exception):
    """Base of all errors of the project.

    Subclasses set ``kind``; a raise site gives a ``code`` when the subclass default is too coarse.
    ``details`` repeats every variable of the message under a stable key (AIP-193), as text.
    """

    kind: Kind = Kind.INTERNAL
    default_code: str = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retryable: bool = False,
        hint: str = "",
        details: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.retryable = retryable
        self.hint = hint
        self.details = dict(details or {})

    @property
    def exit_code(self) -> int:
        """Exit status of a command that ends with this error."""
        return EXIT_CODES[self.kind]

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]" + (f" ({self.hint})" if self.hint else "")


class InvalidInput(FlopmarketError):
    """The caller gave something malformed or out of bounds; sending it again cannot help."""

    kind = Kind.INVALID
    default_code = "INVALID_INPUT"


class LimitExceeded(InvalidInput):
    """A named limit of :mod:`flopmarket.limits` was passed."""

    default_code = "LIMIT_EXCEEDED"


class Unauthenticated(FlopmarketError):
    """No valid signature or session stands behind the request."""

    kind = Kind.UNAUTHENTICATED
    default_code = "UNAUTHENTICATED"


class Forbidden(FlopmarketError):
    """The signer is known and may not do this."""

    kind = Kind.FORBIDDEN
    default_code = "FORBIDDEN"


class NotFound(FlopmarketError):
    """No such thing, or not visible to the caller; the two are not told apart."""

    kind = Kind.NOT_FOUND
    default_code = "NOT_FOUND"


class Conflict(FlopmarketError):
    """The request does not fit the present state (stale fence, reused id, wrong phase)."""

    kind = Kind.CONFLICT
    default_code = "CONFLICT"


class QuotaExceeded(FlopmarketError):
    """A budget, a balance or a rate limit is used up."""

    kind = Kind.QUOTA
    default_code = "QUOTA_EXCEEDED"


class Unavailable(FlopmarketError):
    """The peer or device cannot answer now; a later retry may succeed."""

    kind = Kind.UNAVAILABLE
    default_code = "UNAVAILABLE"

    def __init__(self, message: str, *, retryable: bool = True, **rest: object) -> None:
        super().__init__(message, retryable=retryable, **rest)  # type: ignore[arg-type]
