"""Laws and refusals of the canonical encoding."""

from __future__ import annotations

import hashlib
from dataclasses import FrozenInstanceError, dataclass, replace
from enum import StrEnum
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.errors import FlopmarketError, LimitExceeded
from flopmarket.trust.encoding import (
    I64,
    Digest,
    Length,
    MaxLength,
    Natural,
    decode,
    digest,
    document,
    domain_of,
    encode,
)
from flopmarket.trust.errors import DocumentError


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


@document("flopmarket.test-item.v1")
class Item:
    name: Annotated[str, MaxLength(12)]
    weight: int


@document("flopmarket.test-everything.v1", max_bytes=4096)
class Everything:
    count: int
    balance: I64
    total: Natural
    flag: bool
    blob: bytes
    root: Digest
    colour: Colour
    items: Annotated[tuple[Item, ...], MaxLength(4)]
    names: tuple[str, ...]
    first: Item


@document("flopmarket.test-item.v2")
class ItemTwo:
    name: Annotated[str, MaxLength(12)]
    weight: int


U64 = st.integers(0, 2**64 - 1)
TEXT = st.characters(codec="utf-8", exclude_characters="\0")
ITEMS = st.builds(Item, name=st.text(TEXT, max_size=3), weight=U64)
EVERYTHING = st.builds(
    Everything,
    count=U64,
    balance=st.integers(-(2**63), 2**63 - 1),
    total=st.integers(0, 2**512 - 1),
    flag=st.booleans(),
    blob=st.binary(max_size=64),
    root=st.binary(min_size=32, max_size=32),
    colour=st.sampled_from(Colour),
    items=st.lists(ITEMS, max_size=4).map(tuple),
    names=st.lists(st.text(TEXT, max_size=8), max_size=4).map(tuple),
    first=ITEMS,
)
SAMPLE = Everything(
    count=1,
    balance=-1,
    total=256,
    flag=True,
    blob=b"ab",
    root=bytes(32),
    colour=Colour.RED,
    items=(Item("a", 7),),
    names=("x", "é"),
    first=Item("b", 8),
)


@given(EVERYTHING)
def test_what_is_encoded_decodes_to_itself(value: Everything) -> None:
    assert decode(Everything, encode(value)) == value


@given(st.data())
def test_what_decodes_encodes_to_itself(data: st.DataObject) -> None:
    """Whatever damaged bytes still mean, they are the only spelling of that meaning."""
    raw = bytearray(encode(data.draw(EVERYTHING)))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        value = decode(Everything, bytes(raw))
    except FlopmarketError:
        return
    assert encode(value) == bytes(raw)


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_are_refused_with_an_error_of_ours(data: bytes) -> None:
    try:
        value = decode(Everything, data)
    except FlopmarketError:
        return
    assert encode(value) == data


@given(EVERYTHING, EVERYTHING)
def test_documents_differ_exactly_when_their_bytes_do(a: Everything, b: Everything) -> None:
    assert (a == b) == (encode(a) == encode(b)) == (digest(a) == digest(b))


@given(EVERYTHING, st.data())
def test_every_beginning_of_an_encoding_is_refused(value: Everything, data: st.DataObject) -> None:
    raw = encode(value)
    with pytest.raises(FlopmarketError):
        decode(Everything, raw[: data.draw(st.integers(0, len(raw) - 1))])


def test_the_bytes_are_those_of_the_documented_table() -> None:
    assert encode(SAMPLE) == b"".join(
        [
            (1).to_bytes(8, "big"),
            b"\xff" * 8,
            b"\x00\x00\x00\x02\x01\x00",
            b"\x01",
            b"\x00\x00\x00\x02ab",
            bytes(32),
            b"\x00\x00\x00\x03red",
            b"\x00\x00\x00\x01" + b"\x00\x00\x00\x01a" + (7).to_bytes(8, "big"),
            b"\x00\x00\x00\x02" + b"\x00\x00\x00\x01x" + b"\x00\x00\x00\x02\xc3\xa9",
            b"\x00\x00\x00\x01b" + (8).to_bytes(8, "big"),
        ]
    )


def test_the_digest_binds_the_domain() -> None:
    one, two = Item("a", 1), ItemTwo("a", 1)
    assert encode(one) == encode(two)
    assert digest(one) != digest(two)
    assert digest(one) == hashlib.sha256(b"flopmarket.test-item.v1\x00" + encode(one)).digest()


def test_a_document_is_frozen_and_slotted() -> None:
    item = Item("a", 1)
    with pytest.raises(FrozenInstanceError):
        item.weight = 2  # type: ignore[misc]
    assert not hasattr(item, "__dict__")


HEAD = (5).to_bytes(8, "big") + bytes(8)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (encode(SAMPLE) + b"\x00", "DOCUMENT_TRAILING_BYTES"),
        (encode(SAMPLE)[:-1], "DOCUMENT_TRUNCATED"),
        (b"", "DOCUMENT_TRUNCATED"),
        (HEAD + b"\x00\x00\x00\x02\x00\x01", "DOCUMENT_NOT_CANONICAL"),  # Natural, leading zero
        (HEAD + b"\x00\x00\x00\x01\x00", "DOCUMENT_NOT_CANONICAL"),  # Natural zero in one byte
        (HEAD + b"\x00\x00\x00\x41", "DOCUMENT_TOO_LARGE"),  # Natural of 65 bytes
        (HEAD + bytes(4) + b"\x02", "DOCUMENT_NOT_CANONICAL"),  # bool 2
        (HEAD + bytes(4) + b"\x01\xff\xff\xff\xff", "DOCUMENT_TOO_LARGE"),  # 4 GiB of bytes
        (HEAD + bytes(4) + b"\x01\x00\x0f\xff\xff", "DOCUMENT_TRUNCATED"),  # 1 MiB, not there
        (HEAD + bytes(4) + b"\x01" + bytes(36) + b"\x00\x00\x00\x04blue", "DOCUMENT_UNKNOWN_VALUE"),
        (HEAD + bytes(4) + b"\x01" + bytes(36) + b"\x00\x00\x00\x01\xff", "DOCUMENT_NOT_UTF8"),
        (HEAD + bytes(4) + b"\x01" + bytes(36) + b"\x00\x00\x00\x01\0", "DOCUMENT_ZERO_BYTE"),
        (HEAD + bytes(4) + b"\x01" + bytes(36) + b"\x00\x00\x00\x03red\x00\x00\x00\x05",
         "DOCUMENT_TOO_LARGE"),  # five items where four are allowed
        (HEAD + bytes(4) + b"\x01" + bytes(36) + b"\x00\x00\x00\x03red\x00\x00\x00\x04" + bytes(40),
         "DOCUMENT_TRUNCATED"),  # four items announced, room for three
        (bytes(4097), "DOCUMENT_TOO_LARGE"),
    ],
)  # fmt: skip
def test_malformed_bytes_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(FlopmarketError) as caught:
        decode(Everything, data)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("count", -1, "DOCUMENT_OUT_OF_RANGE"),
        ("count", 2**64, "DOCUMENT_OUT_OF_RANGE"),
        ("count", 1.0, "DOCUMENT_WRONG_TYPE"),
        ("count", True, "DOCUMENT_WRONG_TYPE"),
        ("count", None, "DOCUMENT_WRONG_TYPE"),
        ("balance", 2**63, "DOCUMENT_OUT_OF_RANGE"),
        ("total", -1, "DOCUMENT_OUT_OF_RANGE"),
        ("total", 2**512, "DOCUMENT_TOO_LARGE"),
        ("flag", 1, "DOCUMENT_WRONG_TYPE"),
        ("blob", "text", "DOCUMENT_WRONG_TYPE"),
        ("blob", bytearray(b"a"), "DOCUMENT_WRONG_TYPE"),
        ("blob", bytes(4096), "DOCUMENT_TOO_LARGE"),  # fits its field and not the document
        ("root", bytes(31), "DOCUMENT_WRONG_LENGTH"),
        ("colour", "red", "DOCUMENT_WRONG_TYPE"),
        ("items", [Item("a", 1)], "DOCUMENT_WRONG_TYPE"),
        ("items", (ItemTwo("a", 1),), "DOCUMENT_WRONG_TYPE"),
        ("items", (Item("a", 1),) * 5, "DOCUMENT_TOO_LARGE"),
        ("names", ("\ud800",), "DOCUMENT_NOT_UTF8"),
        ("names", ("a\0",), "DOCUMENT_ZERO_BYTE"),
        ("names", (Colour.RED,), "DOCUMENT_WRONG_TYPE"),
        ("first", Item("éééééé!", 1), "DOCUMENT_TOO_LARGE"),
    ],
)
def test_values_of_the_wrong_type_or_size_are_not_encoded(
    field: str, value: Any, code: str
) -> None:
    with pytest.raises(FlopmarketError) as caught:
        encode(replace(SAMPLE, **{field: value}))
    assert caught.value.code == code
    assert field in caught.value.message or code == "DOCUMENT_TOO_LARGE"


def test_a_limit_error_names_field_size_and_limit() -> None:
    with pytest.raises(LimitExceeded) as caught:
        encode(Item("x" * 13, 1))
    assert caught.value.details == {
        "field": "flopmarket.test-item.v1.name",
        "size": "13",
        "limit": "12",
    }


def test_undeclared_classes_are_no_documents() -> None:
    @dataclass(frozen=True)
    class Plain:
        a: int

    with pytest.raises(DocumentError, match="not declared"):
        encode(Plain(1))
    with pytest.raises(DocumentError, match="not declared"):
        decode(Plain, bytes(8))

    class Derived(Item):
        pass

    with pytest.raises(DocumentError, match="not declared"):
        domain_of(Derived)


@pytest.mark.parametrize(
    "annotation",
    [
        float,
        dict,
        list[int],
        tuple[int, int],
        int | None,
        Any,
        Annotated[int, MaxLength(3)],
        Annotated[str, Length(3)],
        Annotated[bytes, Length(0)],
    ],
)
def test_types_without_an_encoding_are_refused_when_declared(annotation: Any) -> None:
    with pytest.raises(DocumentError) as caught:
        document("flopmarket.test-bad.v1")(type("Bad", (), {"__annotations__": {"x": annotation}}))
    assert caught.value.code == "DOCUMENT_TYPE_INVALID"


def test_a_document_cannot_contain_itself_or_be_empty_or_thaw() -> None:
    with pytest.raises(DocumentError, match="resolved"):

        @document("flopmarket.test-loop.v1")
        class Loop:
            inner: tuple[Loop, ...]

    with pytest.raises(DocumentError, match="at least one field"):

        @document("flopmarket.test-empty.v1")
        class Empty:
            pass

    with pytest.raises(DocumentError, match="frozen"):

        @document("flopmarket.test-thawed.v1")
        @dataclass
        class Thawed:
            a: int


def test_nesting_is_bounded_when_declared() -> None:
    inner: type = Item
    for level in range(7):
        inner = document(f"flopmarket.test-level{level}.v1")(
            type(f"Level{level}", (), {"__annotations__": {"inner": tuple[inner, ...]}})
        )
    with pytest.raises(DocumentError, match="nests 9 documents, at most 8"):
        document("flopmarket.test-deep.v1")(type("Deep", (), {"__annotations__": {"inner": inner}}))


@pytest.mark.parametrize("tag", ["", "offer.v1", "flopmarket.Offer.v1", "flopmarket.offer.v0",
                                 "flopmarket.offer", "flopmarket.a\x00b.v1"])  # fmt: skip
def test_domain_tags_have_one_form(tag: str) -> None:
    with pytest.raises(DocumentError, match="domain tag"):
        document(tag)


def test_a_dataclass_that_is_frozen_and_slotted_already_is_taken_as_it_is() -> None:
    @dataclass(frozen=True, slots=True)
    class Ready:
        a: int

    declared = document("flopmarket.test-ready.v1")(Ready)
    assert declared is Ready
    assert decode(Ready, encode(Ready(3))) == Ready(3)


def test_a_count_is_checked_against_the_bytes_left_before_any_item_is_read() -> None:
    @document("flopmarket.test-counts.v1")
    class Counts:
        values: tuple[int, ...]

    with pytest.raises(DocumentError, match="announces 65536 items and 16 bytes are left"):
        decode(Counts, b"\x00\x01\x00\x00" + bytes(16))


@document("flopmarket.test-every-kind.v1")
class EveryKind:
    whole: int
    large: Natural
    raw: bytes
    fixed: Digest
    flags: tuple[bool, ...]
    roots: tuple[Digest, ...]


EVERY_KIND = EveryKind(1, 2, b"", bytes(32), (True,), (bytes(32),))


@pytest.mark.parametrize(
    "change",
    [{"whole": 1.0}, {"whole": True}, {"large": "2"}, {"large": True}, {"raw": bytearray()},
     {"fixed": "0" * 32}, {"flags": [True]}, {"flags": (1,)}],
    ids=str,
)  # fmt: skip
def test_values_of_a_related_type_are_not_taken_for_the_declared_one(
    change: dict[str, Any],
) -> None:
    assert decode(EveryKind, encode(EVERY_KIND)) == EVERY_KIND
    with pytest.raises(DocumentError) as caught:
        encode(replace(EVERY_KIND, **change))
    assert caught.value.code == "DOCUMENT_WRONG_TYPE"
