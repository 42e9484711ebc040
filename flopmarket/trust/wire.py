"""How each type of document field becomes bytes and back, strictly.

:mod:`flopmarket.trust.encoding` builds one codec for each field of a document when the document is
declared; nobody else calls this. The format has one encoding for every value, so that equal
documents have equal bytes and a signature covers meaning, not spelling:

=================  ==============================================================================
field              bytes
=================  ==============================================================================
``int``            8, unsigned, big-endian
``I64``            8, two's complement, big-endian
``Natural``        4 (length), then the shortest big-endian form (zero has length 0)
``bool``           1, 0x00 or 0x01
``bytes``, ``str`` 4 (length), then the bytes; text is UTF-8 without zero bytes
``Length(n)``      n bytes, no length in front
``StrEnum``        as ``str``; one of the declared values
``tuple[T, ...]``  4 (count), then the items
document           its fields in order, nothing around them
=================  ==============================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from flopmarket.errors import LimitExceeded
from flopmarket.limits import MAX_DOCUMENT_NATURAL_BYTES
from flopmarket.trust.errors import DocumentError

U32_BYTES = 4
U64_BYTES = 8


class Reader:
    """A cursor over received bytes that never reads past their end."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._offset

    def take(self, count: int, where: str) -> bytes:
        """The next ``count`` bytes; :class:`DocumentError` when fewer are left."""
        if count > self.remaining:
            raise DocumentError(
                f"{where} needs {count} bytes and {self.remaining} are left",
                code="DOCUMENT_TRUNCATED",
                details={"field": where},
            )
        start = self._offset
        self._offset = start + count
        return self._data[start : self._offset]

    def take_length(self, where: str, limit: int) -> int:
        """A 32-bit length, checked against ``limit`` and against what is left, before any use."""
        length = int.from_bytes(self.take(U32_BYTES, where), "big")
        check_limit(length, limit, where)
        return length


class Codec(Protocol):
    """Writes and reads the values of one field type."""

    @property
    def minimum_bytes(self) -> int:
        """Fewest bytes any value takes; at least 1, so a count bounds an allocation."""
        ...

    @property
    def nesting(self) -> int:
        """Levels of documents inside a value."""
        ...

    def write(self, value: Any, out: bytearray, where: str) -> None:
        """Append the encoding of ``value``; :class:`DocumentError` when it is not of the type."""
        ...

    def read(self, reader: Reader, where: str) -> Any:
        """The next value; :class:`DocumentError` when the bytes are not canonical."""
        ...


def check_limit(size: int, limit: int, where: str) -> None:
    """:class:`LimitExceeded` when ``size`` (bytes or items of the field ``where``) passes."""
    if size > limit:
        raise LimitExceeded(
            f"{where} has {size} where at most {limit} are allowed",
            code="DOCUMENT_TOO_LARGE",
            details={"field": where, "size": str(size), "limit": str(limit)},
        )


def _wrong_type(where: str, expected: str, value: object) -> DocumentError:
    return DocumentError(
        f"{where} must be {expected}, not {type(value).__name__}",
        code="DOCUMENT_WRONG_TYPE",
        details={"field": where},
    )


@dataclass(frozen=True, slots=True)
class IntegerCodec:
    """A 64-bit integer, unsigned or two's complement."""

    signed: bool
    minimum_bytes: int = U64_BYTES
    nesting: int = 0

    def write(self, value: Any, out: bytearray, where: str) -> None:
        if type(value) is not int:
            raise _wrong_type(where, "int", value)
        try:
            out += value.to_bytes(U64_BYTES, "big", signed=self.signed)
        except OverflowError:
            kind = "signed" if self.signed else "unsigned"
            raise DocumentError(
                f"{where} = {value} does not fit {kind} 64 bits",
                code="DOCUMENT_OUT_OF_RANGE",
                details={"field": where},
            ) from None

    def read(self, reader: Reader, where: str) -> int:
        return int.from_bytes(reader.take(U64_BYTES, where), "big", signed=self.signed)


@dataclass(frozen=True, slots=True)
class NaturalCodec:
    """An integer of any size from zero up, in the fewest bytes."""

    limit_bytes: int = MAX_DOCUMENT_NATURAL_BYTES
    minimum_bytes: int = U32_BYTES
    nesting: int = 0

    def write(self, value: Any, out: bytearray, where: str) -> None:
        if type(value) is not int:
            raise _wrong_type(where, "int", value)
        if value < 0:
            raise DocumentError(
                f"{where} = {value} is negative",
                code="DOCUMENT_OUT_OF_RANGE",
                details={"field": where},
            )
        size = (value.bit_length() + 7) // 8
        check_limit(size, self.limit_bytes, where)
        out += size.to_bytes(U32_BYTES, "big")
        out += value.to_bytes(size, "big")

    def read(self, reader: Reader, where: str) -> int:
        raw = reader.take(reader.take_length(where, self.limit_bytes), where)
        if raw[:1] == b"\x00":
            raise DocumentError(
                f"{where} is an integer with a leading zero byte",
                code="DOCUMENT_NOT_CANONICAL",
                details={"field": where},
            )
        return int.from_bytes(raw, "big")


@dataclass(frozen=True, slots=True)
class BoolCodec:
    """One byte, 0 or 1."""

    minimum_bytes: int = 1
    nesting: int = 0

    def write(self, value: Any, out: bytearray, where: str) -> None:
        if type(value) is not bool:
            raise _wrong_type(where, "bool", value)
        out.append(int(value))

    def read(self, reader: Reader, where: str) -> bool:
        byte = reader.take(1, where)[0]
        if byte > 1:
            raise DocumentError(
                f"{where} is a bool with byte {byte}",
                code="DOCUMENT_NOT_CANONICAL",
                details={"field": where},
            )
        return byte == 1


@dataclass(frozen=True, slots=True)
class BytesCodec:
    """Bytes of bounded length."""

    limit_bytes: int
    minimum_bytes: int = U32_BYTES
    nesting: int = 0

    def write(self, value: Any, out: bytearray, where: str) -> None:
        if type(value) is not bytes:
            raise _wrong_type(where, "bytes", value)
        check_limit(len(value), self.limit_bytes, where)
        out += len(value).to_bytes(U32_BYTES, "big")
        out += value

    def read(self, reader: Reader, where: str) -> bytes:
        return reader.take(reader.take_length(where, self.limit_bytes), where)


@dataclass(frozen=True, slots=True)
class FixedBytesCodec:
    """Bytes of one length (a digest, a nonce, a raw key)."""

    length: int
    nesting: int = 0

    @property
    def minimum_bytes(self) -> int:
        """The length itself."""
        return self.length

    def write(self, value: Any, out: bytearray, where: str) -> None:
        if type(value) is not bytes:
            raise _wrong_type(where, "bytes", value)
        if len(value) != self.length:
            raise DocumentError(
                f"{where} has {len(value)} bytes and must have {self.length}",
                code="DOCUMENT_WRONG_LENGTH",
                details={"field": where},
            )
        out += value

    def read(self, reader: Reader, where: str) -> bytes:
        return reader.take(self.length, where)


@dataclass(frozen=True, slots=True)
class TextCodec:
    """Text as UTF-8. Not normalised: two spellings of one word are two values.

    A zero byte is no text: PostgreSQL cannot store it, and C libraries end there.
    """

    limit_bytes: int
    minimum_bytes: int = U32_BYTES
    nesting: int = 0

    def write(self, value: Any, out: bytearray, where: str) -> None:
        if type(value) is not str:
            raise _wrong_type(where, "str", value)
        # Counted before encoding: a text of n characters has at least n bytes.
        check_limit(len(value), self.limit_bytes, where)
        try:
            raw = value.encode("utf-8")
        except UnicodeEncodeError:
            raise _not_utf8(where) from None
        _check_no_zero(raw, where)
        check_limit(len(raw), self.limit_bytes, where)
        out += len(raw).to_bytes(U32_BYTES, "big")
        out += raw

    def read(self, reader: Reader, where: str) -> str:
        raw = reader.take(reader.take_length(where, self.limit_bytes), where)
        _check_no_zero(raw, where)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise _not_utf8(where) from None


def _check_no_zero(raw: bytes, where: str) -> None:
    if b"\0" in raw:
        raise DocumentError(
            f"{where} has a zero byte", code="DOCUMENT_ZERO_BYTE", details={"field": where}
        )


def _not_utf8(where: str) -> DocumentError:
    return DocumentError(
        f"{where} is not valid UTF-8", code="DOCUMENT_NOT_UTF8", details={"field": where}
    )


@dataclass(frozen=True, slots=True)
class EnumCodec:
    """One of the values of a :class:`~enum.StrEnum`."""

    members: type[StrEnum]
    text: TextCodec
    minimum_bytes: int = U32_BYTES
    nesting: int = 0

    def write(self, value: Any, out: bytearray, where: str) -> None:
        if type(value) is not self.members:
            raise _wrong_type(where, self.members.__name__, value)
        self.text.write(str(value.value), out, where)

    def read(self, reader: Reader, where: str) -> StrEnum:
        raw = self.text.read(reader, where)
        try:
            return self.members(raw)
        except ValueError:
            known = ", ".join(member.value for member in self.members)
            raise DocumentError(
                f"{where} = {raw[:64]!r} is not one of: {known}",
                code="DOCUMENT_UNKNOWN_VALUE",
                details={"field": where},
            ) from None


@dataclass(frozen=True, slots=True)
class TupleCodec:
    """A bounded sequence of values of one type."""

    item: Codec
    limit_items: int
    minimum_bytes: int = U32_BYTES

    @property
    def nesting(self) -> int:
        """As deep as the items."""
        return self.item.nesting

    def write(self, value: Any, out: bytearray, where: str) -> None:
        if type(value) is not tuple:
            raise _wrong_type(where, "tuple", value)
        check_limit(len(value), self.limit_items, where)
        out += len(value).to_bytes(U32_BYTES, "big")
        for index, item in enumerate(value):
            self.item.write(item, out, f"{where}[{index}]")

    def read(self, reader: Reader, where: str) -> tuple[Any, ...]:
        count = reader.take_length(where, self.limit_items)
        if count * self.item.minimum_bytes > reader.remaining:
            raise DocumentError(
                f"{where} announces {count} items and {reader.remaining} bytes are left",
                code="DOCUMENT_TRUNCATED",
                details={"field": where},
            )
        return tuple(self.item.read(reader, f"{where}[{index}]") for index in range(count))


@dataclass(frozen=True, slots=True)
class RecordCodec:
    """The fields of one document, in the order they are declared."""

    build: Callable[..., Any]
    fields: tuple[tuple[str, Codec], ...]

    @property
    def minimum_bytes(self) -> int:
        """Sum over the fields."""
        return sum(codec.minimum_bytes for _, codec in self.fields)

    @property
    def nesting(self) -> int:
        """One more than the deepest field."""
        return 1 + max(codec.nesting for _, codec in self.fields)

    def write(self, value: Any, out: bytearray, where: str) -> None:
        if type(value) is not self.build:
            raise _wrong_type(where, getattr(self.build, "__name__", "a document"), value)
        for name, codec in self.fields:
            codec.write(getattr(value, name), out, f"{where}.{name}")

    def read(self, reader: Reader, where: str) -> Any:
        return self.build(
            **{name: codec.read(reader, f"{where}.{name}") for name, codec in self.fields}
        )
