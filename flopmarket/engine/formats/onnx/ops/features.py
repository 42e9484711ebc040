"""ai.onnx.ml: preparing features and labels. Strings and maps stay on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np

from flopmarket.engine import compose, graph
from flopmarket.engine.dtypes import DType, float32, float64, from_numpy, int32, int64
from flopmarket.engine.formats.onnx.errors import OnnxIllegal
from flopmarket.engine.formats.onnx.ops.operands import elementwise, is_text
from flopmarket.engine.formats.onnx.registry import OpNode, Value, op, tensor
from flopmarket.engine.graph import Node
from flopmarket.engine.tensor import Tensor

ML = "ai.onnx.ml"

Array = np.ndarray[Any, Any]


def floats(value: Value) -> Tensor:
    """Numbers as float32, or float64 where they are that already."""
    x = tensor(value)
    return x if x.dtype is float64 else x.to(float32)


def row(values: Sequence[Any], dtype: DType) -> Tensor:
    """A vector of literals."""
    array = np.asarray(values, dtype=dtype.numpy).reshape(-1)
    return Tensor(graph.const(array, dtype, array.shape))


@op("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(node: OpNode, x: Value, index: Value) -> Value:
    """Columns by number along the last axis; a vector gives one row."""
    if is_text(x):
        columns = np.asarray(node.host(index, "the columns")).reshape(-1)
        found = np.take(np.asarray(x, object), columns, axis=-1)
        return found.reshape(1, -1) if found.ndim == 1 else found
    data, chosen = tensor(x), tensor(index).reshape(-1)
    taken = data.gather_rows(chosen, data.ndim - 1)
    return taken.reshape(1, -1) if data.ndim == 1 else taken


@op("Binarizer", domain=ML)
def binarizer(node: OpNode, x: Value) -> Tensor:
    """1 above the threshold, else 0."""
    value = tensor(x)
    return (value.to(float32) > float(node.get("threshold", 0.0))).to(value.dtype)


@op("Scaler", domain=ML)
def scaler(node: OpNode, x: Value) -> Tensor:
    """(x - offset) * scale as float32."""
    value = floats(x)
    offset = row(node.get("offset", [0.0]), value.dtype)
    return ((value - offset) * row(node.get("scale", [1.0]), value.dtype)).to(float32)


@op("Normalizer", domain=ML)
def normalizer(node: OpNode, x: Value) -> Tensor:
    """Rows divided by their largest magnitude, sum of magnitudes or length; rows of zeros stay."""
    value = tensor(x).to(float32)
    mode = node.get("norm", "MAX")
    axis = value.ndim - 1
    if mode == "MAX":
        divisor = value.abs().amax(axis, keepdim=True)
    elif mode == "L1":
        divisor = value.abs().sum(axis, keepdim=True)
    elif mode == "L2":
        divisor = value.square().sum(axis, keepdim=True).sqrt()
    else:
        raise OnnxIllegal(f"no norm is called {mode!r}")
    return value / divisor.where(divisor != 0.0, 1.0)


@op("Imputer", domain=ML)
def imputer(node: OpNode, x: Value) -> Tensor:
    """One value replaced, by one number or by one per column."""
    value = tensor(x)
    if value.dtype.is_float:
        new, old = node.get("imputed_value_floats"), float(node.get("replaced_value_float", 0.0))
    else:
        new, old = node.get("imputed_value_int64s"), int(node.get("replaced_value_int64", 0))
    if not new:
        raise OnnxIllegal(f"no replacement for {value.dtype} values")
    missing = value.isnan() if isnan(old) else value == old
    return row(new, value.dtype).where(missing, value)


@op("FeatureVectorizer", domain=ML)
def feature_vectorizer(node: OpNode, *values: Value) -> Tensor:
    """Columns side by side as float32, each input cut or padded to its number of columns."""
    widths = node.ints("inputdimensions") or ()
    parts = []
    for value, width in zip(values, widths, strict=False):
        x = tensor(value).to(float32)
        x = x.reshape(1, -1) if x.ndim == 1 else x
        if width > x.shape[1]:
            x = x.pad((0, width - x.shape[1]))
        parts.append(Tensor(compose.part(x.node, 1, 0, width), device=x.device))
    if not parts:
        raise OnnxIllegal("no features")
    return Tensor(graph.concat([part.node for part in parts], 1), device=parts[0].device)


@op("OneHotEncoder", domain=ML)
def one_hot_encoder(node: OpNode, x: Value) -> Tensor:
    """float32 with one more axis: 1 at the category's place, all 0 for an unknown one.

    Where ``zeros`` is 0 an unknown category is an error; that is checked for strings only, because
    numbers may be known only when the program runs.
    """
    words = node.get("cats_strings")
    if words:
        places = {str(word): at for at, word in enumerate(words)}
        given = np.asarray(x, object)
        index = np.array([places.get(str(text), -1) for text in given.reshape(-1)], np.int64)
        if not node.get("zeros", 1) and (index < 0).any():
            raise OnnxIllegal("a string that is no category")
        wanted = Tensor(index.reshape(*given.shape, 1))
        return (wanted == row(range(len(words)), int64)).to(float32)
    categories = row(node.get("cats_int64s", ()), int64)
    return (tensor(x).to(int64).unsqueeze(-1) == categories).to(float32)


# ---------------------------------------------------------------- labels


def _attribute(node: OpNode, prefix: str) -> Array:
    """Values of keys_*, values_* or default_*, whichever type is given."""
    given = node.get(f"{prefix}_tensor")
    if given is not None and np.asarray(given).size:
        return np.asarray(given).reshape(-1)
    for suffix, dtype in (("string", object), ("int64", np.int64), ("float", np.float32)):
        value = node.get(f"{prefix}_{suffix}s")
        if value is not None and len(value):
            return np.array([str(v) for v in value] if dtype is object else value, dtype=dtype)
    raise OnnxIllegal(f"no {prefix}")


def _default(node: OpNode, like_: Array) -> Any:
    given = node.get("default_tensor")
    if given is not None and np.asarray(given).size:
        return np.asarray(given).reshape(-1)[0]
    if like_.dtype == object:
        return node.get("default_string", "_Unused")
    if like_.dtype.kind == "f":
        return node.get("default_float", -0.0)
    return node.get("default_int64", -1)


@op("LabelEncoder", since=2, domain=ML)
def label_encoder(node: OpNode, x: Value) -> Value:
    """Keys exchanged for values; the last of equal keys counts, NaN matches NaN."""
    keys, values = _attribute(node, "keys"), _attribute(node, "values")
    if len(keys) != len(values):
        raise OnnxIllegal(f"{len(keys)} keys and {len(values)} values")
    default = _default(node, values)
    if keys.dtype == object or values.dtype == object:
        if not is_text(x):
            x = node.host(x, "the labels")
        return _looked_up(np.asarray(x), keys, values, default)
    data = tensor(x)
    places = elementwise(lambda a: _last_place(a, keys), data)
    table = np.append(np.asarray([default], values.dtype), values)
    codes = graph.const(table, from_numpy(table.dtype), table.shape)
    return Tensor(graph.gather(codes, places.node, 0), device=data.device)


def _last_place(x: Node, keys: Array) -> Node:
    """int32: 1 + the position of the last equal key, 0 where none is."""
    shape = (*x.shape, len(keys))
    given = graph.expand(graph.reshape(x, (*x.shape, 1)), shape)
    known = compose.broadcast_to(graph.const(keys, x.dtype, keys.shape), shape)
    hit = graph.cmp("eq", given, known)
    if x.dtype.is_float and np.isnan(keys.astype(np.float64)).any():
        both = graph.bit("or", graph.cmp("eq", given, given), graph.cmp("eq", known, known))
        hit = graph.bit("or", hit, compose.invert(both))
    ramp = graph.add(graph.iota(len(x.shape), shape), graph.filled(1, int32, shape))
    places = graph.where(hit, ramp, graph.filled(0, int32, shape))
    return graph.reduce("max", places, (len(x.shape),))


def _looked_up(x: Array, keys: Array, values: Array, default: Any) -> Value:
    table = dict(zip(map(_key, keys.tolist()), values.tolist(), strict=True))
    found = [table.get(_key(item), default) for item in x.reshape(-1).tolist()]
    if values.dtype == object:
        return np.array([str(v) for v in found], dtype=object).reshape(x.shape)
    return Tensor(np.array(found, dtype=values.dtype).reshape(x.shape))


def _key(item: Any) -> Any:
    """What a dictionary finds an item by: every NaN is the same one."""
    return "\0nan" if isinstance(item, float) and isnan(item) else item


@op("LabelEncoder", domain=ML)
def label_encoder_of_classes(node: OpNode, x: Value) -> Value:
    """Strings to their position among the classes, and back."""
    classes = np.array([str(c) for c in node.get("classes_strings", ())], dtype=object)
    numbers = np.arange(len(classes), dtype=np.int64)
    if is_text(x):
        return _looked_up(np.asarray(x), classes, numbers, node.get("default_int64", -1))
    host = node.host(x, "the labels")
    return _looked_up(host, numbers, classes, node.get("default_string", "_Unused"))


@op("CategoryMapper", domain=ML)
def category_mapper(node: OpNode, x: Value) -> Value:
    """Strings to integers or integers to strings by a table."""
    words = np.array([str(c) for c in node.get("cats_strings", ())], dtype=object)
    numbers = np.array(node.get("cats_int64s", ()), dtype=np.int64)
    if len(words) != len(numbers):
        raise OnnxIllegal(f"{len(words)} strings and {len(numbers)} integers")
    if is_text(x):
        return _looked_up(np.asarray(x), words, numbers, node.get("default_int64", -1))
    host = node.host(x, "the categories")
    return _looked_up(host, numbers, words, node.get("default_string", "_Unused"))


# ---------------------------------------------------------------- maps


@op("ZipMap", domain=ML)
def zip_map(node: OpNode, x: Value) -> list[dict[Any, float]]:
    """Each row as a map from class labels to numbers."""
    labels: Sequence[Any] = node.get("classlabels_strings") or node.get("classlabels_int64s") or ()
    rows = np.atleast_2d(node.host(x, "the scores"))
    if rows.shape[1] != len(labels):
        raise OnnxIllegal(f"{rows.shape[1]} columns and {len(labels)} labels")
    return [dict(zip(labels, map(float, scores), strict=True)) for scores in rows]


def _map(value: Value) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise OnnxIllegal("a map is wanted")
    return value


@op("DictVectorizer", domain=ML)
def dict_vectorizer(node: OpNode, x: Value) -> Value:
    """The values of a map in the order of a vocabulary, [1, entries]; 0 where one is missing."""
    given = _map(x)
    words = node.get("string_vocabulary") or node.get("int64_vocabulary") or ()
    strange = [key for key in given if key not in words]
    if strange:
        raise OnnxIllegal(f"the key {strange[0]!r} is not in the vocabulary")
    sample = next(iter(given.values()), 0.0)
    if isinstance(sample, str):
        return np.array([[given.get(word, "") for word in words]], dtype=object)
    kind = np.asarray(sample).dtype
    dtype = np.int64 if kind.kind in "iu" else kind if kind == np.float64 else np.float32
    numbers = np.array([[given.get(word, 0) for word in words]])
    return Tensor(numbers.astype(np.float32 if isinstance(sample, float) else dtype))


@op("CastMap", domain=ML)
def cast_map(node: OpNode, x: Value) -> Value:
    """A map's values by ascending key, dense or at the keys' places, [1, entries]."""
    given = _map(x)
    if node.get("map_form", "DENSE") == "SPARSE":
        count = int(node.get("max_map", 1))
        if any(not 0 <= key < count for key in given):
            raise OnnxIllegal(f"keys outside 0..{count - 1}")
        values = [given.get(place, 0) for place in range(count)]
    else:
        values = [given[key] for key in sorted(given)]
    target = node.get("cast_to", "TO_FLOAT")
    if target == "TO_STRING":
        return np.array([[str(v) for v in values]], dtype=object)
    dtype = np.int64 if target == "TO_INT64" else np.float32
    return Tensor(np.array([[float(v) for v in values]]).astype(dtype))
