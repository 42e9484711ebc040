"""Bytes in and out for the canonical program: varints, strings, nested arguments, all bounded.

Written for input from strangers: every length is checked against what is left before anything is
allocated, a number has exactly one encoding, and nesting is bounded. Errors are GraphError with
code PROGRAM_MALFORMED.
"""

from __future__ import annotations

from typing import Any, NoReturn

from flopmarket.engine.errors import GraphError

_INT, _STR, _BYTES, _TUPLE = range(4)
_MAX_DEPTH = 3
_MAX_ITEMS = 4_096


class Writer:
    """Appends canonical encodings to a growing buffer."""

    def __init__(self) -> None:
        self._parts = bytearray()

    def raw(self, data: bytes) -> None:
        """``data`` as it is."""
        self._parts += data

    def natural(self, value: int) -> None:
        """An unsigned LEB128 varint."""
        while value >= 0x80:
            self._parts.append(value & 0x7F | 0x80)
            value >>= 7
        self._parts.append(value)

    def blob(self, data: bytes) -> None:
        """Length, then bytes."""
        self.natural(len(data))
        self._parts += data

    def text(self, value: str) -> None:
        """UTF-8 with its length."""
        self.blob(value.encode())

    def argument(self, value: Any) -> None:
        """A node argument: int, str, bytes, or a tuple of them."""
        if type(value) is int:
            self.natural(_INT)
            self.natural(value * 2 if value >= 0 else -value * 2 - 1)
        elif type(value) is str:
            self.natural(_STR)
            self.text(value)
        elif type(value) is bytes:
            self.natural(_BYTES)
            self.blob(value)
        else:
            self.natural(_TUPLE)
            self.natural(len(value))
            for item in value:
                self.argument(item)

    def finish(self) -> bytes:
        """Everything written so far."""
        return bytes(self._parts)


class Reader:
    """Reads what :class:`Writer` wrote, and refuses everything else."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def raw(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        if count > self.left:
            malformed(f"{count} bytes announced, {self.left} left")
        self._at += count
        return self._data[self._at - count : self._at]

    def natural(self, limit: int, what: str) -> int:
        """An unsigned varint of at most ``limit``, in its shortest form."""
        value = shift = 0
        while True:
            if not self.left or shift > 63:
                malformed(f"{what}: broken number")
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        if shift and byte == 0:
            malformed(f"{what}: number not in its shortest form")
        if value > limit:
            malformed(f"{what}: {value} is over the limit of {limit}", "PROGRAM_LIMIT")
        return value

    def blob(self, limit: int, what: str) -> bytes:
        """Length-prefixed bytes."""
        return self.raw(self.natural(limit, what))

    def text(self, limit: int, what: str) -> str:
        """Length-prefixed UTF-8."""
        try:
            return self.blob(limit, what).decode()
        except UnicodeDecodeError:
            malformed(f"{what}: not UTF-8")

    def argument(self, limit: int, depth: int = 0) -> Any:
        """A node argument; ``limit`` bounds the bytes of one literal."""
        kind = self.natural(_TUPLE, "argument kind")
        if kind == _INT:
            zigzag = self.natural(2**63 - 1, "argument")
            return zigzag // 2 if zigzag % 2 == 0 else -(zigzag + 1) // 2
        if kind == _STR:
            return self.text(1_024, "argument")
        if kind == _BYTES:
            return self.blob(limit, "literal")
        if depth == _MAX_DEPTH:
            malformed("arguments nest too deep")
        count = self.natural(_MAX_ITEMS, "argument items")
        return tuple(self.argument(limit, depth + 1) for _ in range(count))


def malformed(why: str, code: str = "PROGRAM_MALFORMED") -> NoReturn:
    """Raise the error of a program that cannot be read."""
    raise GraphError(f"malformed program: {why}", code=code)
