"""Canonical bytes of documents: what is hashed, signed and stored.

A *document* is a frozen, slotted dataclass declared with its domain tag::

    @document("flopmarket.cancel-request.v1")
    class CancelRequest:
        job_id: Digest
        request_id: Annotated[str, MaxLength(64)]

``encode`` and ``decode`` are inverse to each other in both directions: one document, one string of
bytes. There are no defaults, optionals, floats, unknown fields or trailing bytes on the wire, and
every length is checked against a limit before anything is allocated (the format is the table in
:mod:`flopmarket.trust.wire`). ``digest`` separates documents of different types by their tag.

Annotations understood: ``int`` (unsigned 64 bits), ``I64``, ``Natural``, ``bool``, ``bytes``,
``str``, ``Digest``, ``tuple[T, ...]``, a :class:`~enum.StrEnum`, another document; and
``Annotated[..., MaxLength(n)]`` or ``Annotated[bytes, Length(n)]`` around them. A type is resolved
when it is declared, so documents cannot contain themselves and nesting is bounded by the type.

The jobs, client, worker and coordinator packages declare documents of their own with it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Protocol, TypeVar, dataclass_transform

from flopmarket.limits import (
    MAX_DOCUMENT_BYTES,
    MAX_DOCUMENT_ITEMS,
    MAX_DOCUMENT_NESTING,
    MAX_DOCUMENT_TEXT_BYTES,
)
from flopmarket.trust.errors import DocumentError
from flopmarket.trust.wire import (
    BoolCodec,
    BytesCodec,
    Codec,
    EnumCodec,
    FixedBytesCodec,
    IntegerCodec,
    NaturalCodec,
    Reader,
    RecordCodec,
    TextCodec,
    TupleCodec,
    check_limit,
)

DIGEST_BYTES = 32

_DOMAIN = re.compile(r"flopmarket\.[a-z0-9]+(-[a-z0-9]+)*\.v[1-9][0-9]*")
_LAYOUT = "__document_layout__"


class Document(Protocol):
    """What a type checker knows of a document: a dataclass. The rest is checked at run time."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


AnyDocument = TypeVar("AnyDocument", bound=Document)
_Class = TypeVar("_Class", bound=type)


@dataclass(frozen=True, slots=True)
class Signed64:
    """Annotation: two's complement 64 bits."""


@dataclass(frozen=True, slots=True)
class ArbitraryPrecision:
    """Annotation: an integer of any size from zero up."""


@dataclass(frozen=True, slots=True)
class Length:
    """Annotation: exactly this many bytes."""

    length: int


@dataclass(frozen=True, slots=True)
class MaxLength:
    """Annotation: at most this many bytes (``bytes``, ``str`` in UTF-8) or items (``tuple``)."""

    length: int


I64 = Annotated[int, Signed64()]
Natural = Annotated[int, ArbitraryPrecision()]
Digest = Annotated[bytes, Length(DIGEST_BYTES)]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a declaration fixes about a document type."""

    domain: str
    max_bytes: int
    codec: RecordCodec


@dataclass_transform(frozen_default=True)
def document(domain: str, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> Callable[[_Class], _Class]:
    """Declare a class as a document; makes it a frozen, slotted dataclass unless it is one already.

    ``domain`` is ``flopmarket.<words-with-dashes>.v<number>`` and names the meaning: a changed
    field is a new version. ``max_bytes`` bounds the encoding. Raises :class:`DocumentError` for
    a field type that has no encoding.
    """
    if not _DOMAIN.fullmatch(domain):
        raise DocumentError(
            f"domain tag {domain!r} is not flopmarket.<name>.v<number>",
            code="DOCUMENT_TYPE_INVALID",
        )

    def declare(cls: _Class) -> _Class:
        if "__dataclass_fields__" not in cls.__dict__:
            cls = typing.cast(_Class, dataclass(frozen=True, slots=True)(cls))
        if not cls.__dataclass_params__.frozen or "__slots__" not in cls.__dict__:  # type: ignore[attr-defined]
            raise _bad_type(cls.__name__, "a document is a frozen, slotted dataclass")
        codec = RecordCodec(cls, _field_codecs(cls))
        if codec.nesting > MAX_DOCUMENT_NESTING:
            raise _bad_type(
                cls.__name__, f"nests {codec.nesting} documents, at most {MAX_DOCUMENT_NESTING}"
            )
        setattr(cls, _LAYOUT, Layout(domain, max_bytes, codec))
        return cls

    return declare


def layout_of(cls: type) -> Layout:
    """The layout of a document type; :class:`DocumentError` when it was never declared."""
    layout = cls.__dict__.get(_LAYOUT)
    if not isinstance(layout, Layout):
        raise _bad_type(cls.__name__, "not declared with @document")
    return layout


def domain_of(cls: type) -> str:
    """The domain tag of a document type."""
    return layout_of(cls).domain


def encode(document: Document) -> bytes:
    """The canonical bytes of a document.

    Raises :class:`DocumentError` when a field does not hold a value of its declared type, and
    :class:`~flopmarket.errors.LimitExceeded` past a length limit.
    """
    layout = layout_of(type(document))
    out = bytearray()
    layout.codec.write(document, out, layout.domain)
    check_limit(len(out), layout.max_bytes, layout.domain)
    return bytes(out)


def decode(cls: type[AnyDocument], data: bytes) -> AnyDocument:
    """The document whose canonical bytes are ``data``, all of them.

    Raises :class:`DocumentError` or :class:`~flopmarket.errors.LimitExceeded`; whatever returns
    encodes to the same bytes again.
    """
    layout = layout_of(cls)
    check_limit(len(data), layout.max_bytes, layout.domain)
    reader = Reader(bytes(data))
    value = layout.codec.read(reader, layout.domain)
    if reader.remaining:
        raise DocumentError(
            f"{layout.domain} is followed by {reader.remaining} trailing bytes",
            code="DOCUMENT_TRAILING_BYTES",
        )
    return typing.cast(AnyDocument, value)


def digest(document: Document) -> bytes:
    """sha256(domain tag || 0x00 || encoding), 32 bytes.

    A tag contains no zero byte, so no tag is the beginning of another one's input.
    """
    return tagged_hash(domain_of(type(document)), encode(document))


def tagged_hash(domain: str, *parts: bytes | memoryview) -> bytes:
    """sha256(domain || 0x00 || parts), 32 bytes; the parts must have an unambiguous layout."""
    hasher = hashlib.sha256(domain.encode("ascii") + b"\x00")
    for part in parts:
        hasher.update(part)
    return hasher.digest()


def _field_codecs(cls: type) -> tuple[tuple[str, Codec], ...]:
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise _bad_type(cls.__name__, f"annotation cannot be resolved: {error}") from None
    names = [field.name for field in dataclasses.fields(cls)]
    if not names:
        raise _bad_type(cls.__name__, "a document has at least one field")
    return tuple((name, _codec(hints[name], f"{cls.__name__}.{name}")) for name in names)


def _codec(annotation: Any, where: str) -> Codec:
    markers: tuple[Any, ...] = ()
    if typing.get_origin(annotation) is Annotated:
        annotation, *rest = typing.get_args(annotation)
        markers = tuple(rest)
    codec = _marked_codec(annotation, markers, where)
    if codec is None:
        raise _bad_type(where, f"no encoding for {annotation!r} with {markers!r}")
    return codec


def _marked_codec(annotation: Any, markers: tuple[Any, ...], where: str) -> Codec | None:
    """The codec of a bare type and its markers, None where the pair means nothing."""
    match markers:
        case ():
            return _bare_codec(annotation, where, None)
        case (Signed64(),) if annotation is int:
            return IntegerCodec(signed=True)
        case (ArbitraryPrecision(),) if annotation is int:
            return NaturalCodec()
        case (Length(length),) if annotation is bytes and length > 0:
            return FixedBytesCodec(length)
        case (MaxLength(length),) if annotation in (bytes, str) or _is_tuple(annotation):
            return _bare_codec(annotation, where, length)
        case _:
            return None


def _bare_codec(annotation: Any, where: str, limit: int | None) -> Codec | None:
    if annotation is int:
        return IntegerCodec(signed=False)
    if annotation is bool:
        return BoolCodec()
    if annotation is bytes:
        return BytesCodec(MAX_DOCUMENT_BYTES if limit is None else limit)
    if annotation is str:
        return TextCodec(MAX_DOCUMENT_TEXT_BYTES if limit is None else limit)
    if _is_tuple(annotation):
        item = _codec(typing.get_args(annotation)[0], f"{where}[]")
        return TupleCodec(item, MAX_DOCUMENT_ITEMS if limit is None else limit)
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return EnumCodec(annotation, TextCodec(MAX_DOCUMENT_TEXT_BYTES))
    if isinstance(annotation, type) and _LAYOUT in annotation.__dict__:
        return layout_of(annotation).codec
    return None


def _is_tuple(annotation: Any) -> bool:
    arguments = typing.get_args(annotation)
    return (
        typing.get_origin(annotation) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis
    )


def _bad_type(where: str, reason: str) -> DocumentError:
    return DocumentError(f"{where}: {reason}", code="DOCUMENT_TYPE_INVALID")
