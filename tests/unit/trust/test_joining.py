"""Tokens and words that people carry from machine to machine; key files that change."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.errors import FlopmarketError, InvalidInput
from flopmarket.trust.errors import UnusableKey
from flopmarket.trust.joining import NO_AUTHORITY, JoinToken, read_token, write_token
from flopmarket.trust.key_identity import (
    KeyIdentity,
    identity_path,
    next_key_path,
    read_identity,
    replace_key_file,
    write_identity,
)
from flopmarket.trust.keys import KeyPair, KeyRole
from flopmarket.trust.recovery_words import from_words, to_words

TOKEN = JoinToken("market.example:7443", NO_AUTHORITY, "c" * 64, "a" * 64, b"\x05" * 32, 10**15)


def test_a_token_is_one_line_and_hides_its_secret_in_logs() -> None:
    line = write_token(TOKEN)
    assert read_token(f"  {line}\n") == TOKEN
    assert "\n" not in line and " " not in line and len(line) < 400
    assert TOKEN.secret.hex() not in repr(TOKEN) and "05" * 8 not in repr(TOKEN)


@given(place=st.integers(0, 10_000), by=st.integers(1, 255))
def test_a_changed_or_cut_token_is_refused(place: int, by: int) -> None:
    line = write_token(TOKEN)
    at = place % len(line)
    changed = line[:at] + chr((ord(line[at]) + by) % 256) + line[at + 1 :]
    for wrong in (changed, line[:at], line + "A"):
        if wrong.strip() != line:
            with pytest.raises(InvalidInput):
                read_token(wrong)


@given(seed=st.binary(min_size=32, max_size=32))
def test_words_are_a_key_and_one_wrong_word_is_not(seed: bytes) -> None:
    words = to_words(seed)
    assert from_words(f" {words.upper()}\n ").public == KeyPair.from_seed(seed).public
    listed = words.split()
    for wrong in (listed[:-1], [*listed, "zoo"], ["zzzz", *listed[1:]], ["é", *listed[1:]]):
        with pytest.raises(UnusableKey) as caught:
            from_words(" ".join(wrong))
        assert caught.value.code == "RECOVERY_WORDS"
        assert listed[1] not in caught.value.message.split()


def test_a_key_file_is_replaced_and_the_old_key_stays_beside_it(tmp_path: Path) -> None:
    path, old, new, third = tmp_path / "me.pem", *(KeyPair.generate() for _ in range(3))
    old.save(path)
    new.save(next_key_path(path))  # an earlier attempt had made it
    kept = replace_key_file(path, new, "a" * 64, KeyRole.DEVICE)
    assert KeyPair.load(path).public == new.public and KeyPair.load(kept).public == old.public
    assert not next_key_path(path).exists() and path.stat().st_mode & 0o077 == 0
    assert read_identity(path) == KeyIdentity("a" * 64, KeyRole.DEVICE, old.key_id, kept.name)
    last = replace_key_file(path, third, "a" * 64, KeyRole.DEVICE)
    known = read_identity(path)
    assert known is not None and (known.lineage, known.previous) == (old.key_id, last.name)


def test_what_stands_beside_a_key_is_read_with_care(tmp_path: Path) -> None:
    path = tmp_path / "me.pem"
    assert read_identity(path) is None
    write_identity(path, KeyIdentity("a" * 64, KeyRole.CI))
    assert read_identity(path) == KeyIdentity("a" * 64, KeyRole.CI)
    good = '{"account_id": "%s", "role": "device"' % ("a" * 64)
    for wrong in (
        "",
        "[]",
        "{}",
        '{"account_id": "x", "role": "ci"}',
        good + ', "previous": 1}',
        good + ', "previous": "../x.pem"}',
        good.replace("device", "king") + "}",
    ):
        identity_path(path).write_text(wrong)
        with pytest.raises(FlopmarketError) as caught:
            read_identity(path)
        assert caught.value.code == "KEY_IDENTITY_MALFORMED"
