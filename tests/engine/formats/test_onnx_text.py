"""Text operators and the linear-time pattern matcher."""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
import pytest

from flopmarket.engine.formats.onnx import limits
from flopmarket.engine.formats.onnx.errors import OnnxIllegal, OnnxUnsupported
from flopmarket.engine.formats.onnx.ops.patterns import Pattern
from tests.engine.formats.single import run

PATTERNS = [
    r"",
    r"a",
    r"abc|abd|x",
    r"(ab)*c+",
    r"a{2,4}b{0,2}",
    r"a{3}",
    r"(a|b|)*?c",
    r"[a-c]+[^a-c]",
    r"[\w.\-]{0,5}@(yahoo|gmail)\.com",
    r"\d+\s\D\S\W",
    r"^a.c$",
    r"\ba\b.*",
    r"a\Bb",
    r"(?:x(?P<name>y))?z",
    r"(?i)AbC[d-f]",
    r"(?s)a.b",
]
TEXTS = [
    *("", "a", "b", "c", "aa", "aab", "aaabb", "aaaabbb", "abc", "abd", "ababcc", "cc", "abac"),
    *("abcx", "ad", "a@gmail.com", "me.x@yahoo.com", "toolong@gmail.com", "12 a_-", "1 xx."),
    *("a c", "a-b", "ab", "xyz", "z", "xz", "ABCD", "abce", "a\nb", "é", "a c\n"),
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_what_python_matches(pattern: str) -> None:
    ours, theirs = Pattern(pattern), re.compile(pattern, re.ASCII)
    for text in TEXTS:
        if text.endswith("\n") and "$" in pattern:
            continue  # Python's $ stands before a last line break, RE2's does not
        assert ours.matches(text) == (theirs.fullmatch(text) is not None), text


def test_no_pattern_takes_exponential_time() -> None:
    started = time.monotonic()
    assert not Pattern(r"(a*)*b").matches("a" * 2_000)
    assert not Pattern(r"(a|a|aa)*$b").matches("a" * 500)
    assert not Pattern(r"(x+x+)+y").matches("x" * 500)
    assert time.monotonic() - started < 5.0


@pytest.mark.parametrize("pattern", [r"(a)\1", r"(?=a)b", r"(?<!a)b", r"(?m)^a", r"(?>a)b", "a*+"])
def test_what_re2_has_not_is_refused(pattern: str) -> None:
    with pytest.raises(OnnxUnsupported):
        Pattern(pattern)


@pytest.mark.parametrize("pattern", ["(", "[a", "a{3,2}", "*", "(" * 2_000 + ")" * 2_000])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(OnnxIllegal):
        Pattern(pattern)


def test_large_patterns_are_refused() -> None:
    with pytest.raises(OnnxUnsupported, match="states"):
        Pattern("((a{100}){100}){100}")
    with pytest.raises(OnnxUnsupported, match="characters"):
        Pattern("a" * (limits.MAX_PATTERN_CHARACTERS + 1))


def test_splitting_pads_and_counts() -> None:
    words = np.array([["a b  c", ""], ["d", " e f "]], dtype=object)
    parts, counts = run("StringSplit", words, outputs=2)
    assert parts.tolist() == [[["a", "b", "c"], ["", "", ""]], [["d", "", ""], ["e", "f", ""]]]
    assert counts.tolist() == [[3, 0], [1, 2]]
    parts, counts = run("StringSplit", words, outputs=2, delimiter=" ", maxsplit=1)
    assert parts.tolist() == [[["a", "b  c"], ["", ""]], [["d", ""], ["", "e f "]]]
    assert counts.tolist() == [[2, 1], [1, 2]]


def test_text_broadcasts_and_compares() -> None:
    left, right = np.array([["x"], ["y"]], dtype=object), np.array(["1", "2"], dtype=object)
    assert run("StringConcat", left, right).tolist() == [["x1", "x2"], ["y1", "y2"]]
    assert run("Equal", left, np.array(["y"], dtype=object)).tolist() == [[False], [True]]


def test_numbers_become_text_and_come_back() -> None:
    numbers = np.array([0.1, -2.5, np.inf, np.nan, 1e20], np.float32)
    text = run("Cast", numbers, to=8)
    assert text.tolist() == ["0.1", "-2.5", "INF", "NaN", "1e+20"]
    np.testing.assert_array_equal(run("Cast", text, to=1), numbers)
    assert run("Cast", np.array(["7", "-3.0"], dtype=object), to=7).tolist() == [7, -3]
    with pytest.raises(OnnxIllegal, match="no number"):
        run("Cast", np.array(["seven"], dtype=object), to=1)


@pytest.mark.parametrize("text", [False, True])
def test_n_grams_are_counted_with_their_skips(text: bool) -> None:
    rows = np.array([[1, 2, 1, 2, 3], [3, 3, 1, 9, 2]])
    settings: dict[str, Any] = {
        "mode": "TF",
        "min_gram_length": 1,
        "max_gram_length": 2,
        "max_skip_count": 1,
        "ngram_counts": [0, 2],
        "ngram_indexes": [1, 0, 3, 2],
    }
    pool = [1, 3, 1, 2, 2, 1]
    if text:
        given = np.array([[str(v) for v in row] for row in rows], dtype=object)
        found = run("TfIdfVectorizer", given, pool_strings=[str(v) for v in pool], **settings)
    else:
        found = run("TfIdfVectorizer", rows, pool_int64s=pool, **settings)
    # Columns: 3, 1, (2, 1), (1, 2); neighbours and pairs with one word between them.
    assert found.tolist() == [[1, 2, 1, 2], [2, 1, 0, 1]]
