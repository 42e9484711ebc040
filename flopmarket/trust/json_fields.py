"""Members of signed JSON files (receipts, price snapshots, statements), read strictly.

JSON is only their outer form: integers are decimal text, digests 64 lower-case hex digits. Each
function raises ``TypeError`` or ``ValueError``; the reader of a file makes its own error of it.
"""

from __future__ import annotations

import base64
import re

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,38}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def integer_of(value: object, most: int = 10**39 - 1) -> int:
    """A whole number of zero to ``most``, in decimal text without leading zeros."""
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value) or int(value) > most:
        raise ValueError(f"{value!r} is not a decimal string of at most {most}"[:150])
    return int(value)


def text_of(value: object) -> str:
    """A text that can be encoded: JSON can spell half a character."""
    if not isinstance(value, str):
        raise TypeError("text expected")
    value.encode("utf-8")  # UnicodeEncodeError is a ValueError
    return value


def digest_of(value: object) -> bytes:
    """The 32 bytes of a digest."""
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError("a digest is 64 lower-case hex digits")
    return bytes.fromhex(value)


def base64_of(data: bytes) -> str:
    """Bytes as a member of a file."""
    return base64.b64encode(data).decode()


def bytes_of(value: object) -> bytes:
    """Bytes that :func:`base64_of` wrote."""
    return base64.b64decode(text_of(value), validate=True)  # binascii.Error is a ValueError
