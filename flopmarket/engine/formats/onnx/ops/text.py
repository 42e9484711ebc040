"""Operators on strings. Strings are host arrays of Python objects: they are computed at once, with
numpy and the standard library, and never become part of a program."""

from __future__ import annotations

from typing import Any

import numpy as np

from flopmarket.engine import compose, graph
from flopmarket.engine.dtypes import float32, int64
from flopmarket.engine.formats.onnx import limits
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.ops.operands import is_text
from flopmarket.engine.formats.onnx.ops.patterns import Pattern
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.formats.onnx.values import check_host
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor

Array = np.ndarray[Any, Any]


def _strings(value: Value) -> Array:
    if not is_text(value):
        raise OnnxIllegal("strings are wanted")
    return np.asarray(value, dtype=object)


def _mapped(x: Array, change: Any, dtype: Any = object) -> Array:
    """``change`` on every element."""
    flat = np.empty(x.size, dtype=dtype)
    for at, text in enumerate(x.reshape(-1)):
        flat[at] = change(text)
    return flat.reshape(x.shape)


def _characters(x: Array) -> int:
    return sum(len(str(text)) for text in x.reshape(-1))


def _check_characters(count: int) -> None:
    if count > limits.MAX_TEXT_CHARACTERS:
        raise OnnxIllegal(
            f"{count} characters, at most {limits.MAX_TEXT_CHARACTERS}", code="ONNX_LIMIT"
        )


@op("StringConcat")
def string_concat(node: OpNode, a: Value, b: Value) -> Array:
    """Elementwise concatenation with numpy's broadcasting."""
    left, right = np.broadcast_arrays(_strings(a), _strings(b))
    check_host(left.size)
    _check_characters(_characters(left) + _characters(right))
    joined = np.empty(left.shape, dtype=object)
    for place in np.ndindex(left.shape):
        joined[place] = str(left[place]) + str(right[place])
    return joined


@op("StringSplit")
def string_split(node: OpNode, x: Value) -> tuple[Array, Tensor]:
    """Substrings along a new last axis, padded with '', and how many there are of each."""
    given = _strings(x)
    check_host(given.size)
    _check_characters(_characters(given))
    delimiter = node.get("delimiter") or None
    most = node.get("maxsplit")
    parts = [
        str(text).split(delimiter, -1 if most is None else int(most)) for text in given.reshape(-1)
    ]
    width = max(map(len, parts), default=0)
    check_host(len(parts) * width)
    padded = np.full((len(parts), width), "", dtype=object)
    for row, pieces in zip(padded, parts, strict=True):
        row[: len(pieces)] = pieces
    counts = np.array([len(pieces) for pieces in parts], dtype=np.int64)
    return padded.reshape(*given.shape, width), Tensor(counts.reshape(given.shape))


@op("StringNormalizer")
def string_normalizer(node: OpNode, x: Value) -> Array:
    """Elements of [C] or [1, C] that are no stop words, in upper or lower case or as they are."""
    given = _strings(x)
    stop_words = {str(word) for word in node.get("stopwords", ())}
    if not node.get("is_case_sensitive", 0):
        stop_words = {word.lower() for word in stop_words}
        kept = [str(t) for t in given.reshape(-1) if str(t).lower() not in stop_words]
    else:
        kept = [str(t) for t in given.reshape(-1) if str(t) not in stop_words]
    action = node.get("case_change_action", "NONE")
    if action == "LOWER":
        kept = [text.lower() for text in kept]
    elif action == "UPPER":
        kept = [text.upper() for text in kept]
    elif action != "NONE":
        raise OnnxIllegal(f"no change of case is called {action!r}")
    result = np.array(kept or [""], dtype=object)
    return result if given.ndim == 1 else result.reshape(1, -1)


@op("RegexFullMatch")
def regex_full_match(node: OpNode, x: Value) -> Tensor:
    """Whether a whole string matches the pattern, in time linear in its length."""
    pattern = Pattern(str(node.get("pattern")))
    return Tensor(_mapped(_strings(x), lambda text: pattern.matches(str(text)), np.bool_))


# ---------------------------------------------------------------- n-grams


@op("TfIdfVectorizer")
def tf_idf_vectorizer(node: OpNode, x: Value) -> Tensor:
    """Counts of the pool's n-grams in each row of [C] or [N, C], weighted by ``mode``.

    Strings become their numbers in the pool first; the counting is a graph either way. As in other
    runtimes ``weights`` belong to output columns.
    """
    strings = node.get("pool_strings")
    pool = [str(word) for word in strings] if strings else [int(v) for v in node.get("pool_int64s")]
    if is_text(x):
        numbers = {word: at for at, word in enumerate(dict.fromkeys(pool))}
        ids = Tensor(_mapped(_strings(x), lambda word: numbers.get(str(word), -1), np.int64))
        pool = [numbers[word] for word in pool]
    else:
        ids = tensor(x).to(int64)
    vector = ids.ndim < 2
    rows = ids.reshape(1, -1) if vector else ids
    counts = _counts(node, rows.node, [int(v) for v in pool])
    result = Tensor(graph.cast(counts, float32), device=ids.device)
    mode = node.get("mode")
    if mode not in ("TF", "IDF", "TFIDF"):
        raise OnnxIllegal(f"no weighting is called {mode!r}")
    if mode == "IDF":
        result = result.minimum(1.0)
    weights = node.get("weights")
    if mode != "TF" and weights:
        result = result * Tensor(np.asarray(weights, np.float32))
    return result.reshape(-1) if vector else result


def _counts(node: OpNode, rows: Node, pool: list[int]) -> Node:
    """int64 [N, outputs] of int64 [N, C]."""
    starts = node.ints("ngram_counts") or ()
    columns = np.array(node.ints("ngram_indexes"), dtype=np.int64)
    ends = (*starts[1:], len(pool))
    low, high = int(node.get("min_gram_length")), int(node.get("max_gram_length"))
    found: list[Node] = []  # [n-grams of one length, N] each
    used: list[int] = []
    first = 0
    for length, (start, end) in enumerate(zip(starts, ends, strict=True), start=1):
        grams = (end - start) // length
        if grams and low <= length <= high:
            entries = np.array(pool[start : start + grams * length]).reshape(grams, length)
            skips = range(1 if length == 1 else int(node.get("max_skip_count")) + 1)
            found.append(_hits(rows, entries, skips))
            used += range(first, first + grams)
        first += grams
    total = graph.filled(0, int64, (int(columns.max()) + 1, rows.shape[0]))
    if found:
        index = graph.const(columns[used], int64, (len(used),))
        total = graph.scatter("add", total, index, graph.concat(found, 0))
    return graph.permute(total, (1, 0))


def _hits(rows: Node, entries: Array, skips: range) -> Node:
    """int64 [n-grams, N]: how often each row has each of ``entries`` [n-grams, length]."""
    grams, length = entries.shape
    batch, count = rows.shape
    wanted = graph.reshape(graph.const(entries, int64, entries.shape), (grams, 1, 1, length))
    total = graph.filled(0, int64, (grams, batch))
    reach = (count - 1) // (length - 1) if length > 1 else 1  # the largest distance that fits
    if min(len(skips), reach) > limits.MAX_SKIPS:
        raise OnnxIllegal(f"n-grams with more than {limits.MAX_SKIPS} distances", code="ONNX_LIMIT")
    for skip in skips[: max(0, reach)]:
        windows = graph.window(rows, [(1, length, 1, skip + 1)])
        seen = graph.reshape(windows, (1, *windows.shape))
        equal = graph.cmp("eq", *compose.broadcast(seen, wanted))
        whole = graph.cast(compose.fold("min", equal, (3,)), int64)
        total = graph.add(total, compose.fold("sum", whole, (2,)))
    return total
