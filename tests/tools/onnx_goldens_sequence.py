"""Write tests/vectors/onnx/sequence.npz: single operators as ONNX Runtime computes them.

    python -m tests.tools.onnx_goldens_sequence

What the node tests of ONNX do not cover: attributes of recurrent operators, and com.microsoft's
attention operators. ONNX Runtime is needed only here. Keys are "case/model" (the file's bytes),
"case/in/<name>", "case/out/<name>".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

TARGET = Path(__file__).parents[1] / "vectors" / "onnx" / "sequence.npz"
Array = np.ndarray[Any, Any]
_random = np.random.default_rng(11)
_T, _N, _I, _H = 5, 3, 4, 2


def draw(*shape: int) -> Array:
    """float32 around 0."""
    return (_random.normal(size=shape) * 0.6).astype(np.float32)


@dataclass(frozen=True)
class OpCase:
    """One operator; an input that is None is left out."""

    op_type: str
    inputs: dict[str, Array | None]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    domain: str = ""


def recurrent(
    kind: str,
    gates: int,
    directions: int = 1,
    *,
    lengths: bool = False,
    initial: bool = True,
    peepholes: bool = False,
    batch_first: bool = False,
    **attributes: Any,
) -> OpCase:
    """An RNN, LSTM or GRU."""
    given = (_N, _T, _I) if batch_first else (_T, _N, _I)
    state = (_N, directions, _H) if batch_first else (directions, _N, _H)
    inputs: dict[str, Array | None] = {
        "X": draw(*given),
        "W": draw(directions, gates * _H, _I),
        "R": draw(directions, gates * _H, _H),
        "B": draw(directions, 2 * gates * _H),
        "lengths": np.array([5, 2, 4], np.int32) if lengths else None,
        "h": draw(*state) if initial else None,
    }
    outputs: tuple[str, ...] = ("Y", "Y_h")
    if kind == "LSTM":
        inputs["c"] = draw(*state) if initial else None
        inputs["P"] = draw(directions, 3 * _H) if peepholes else None
        outputs = ("Y", "Y_h", "Y_c")
    attributes |= {"hidden_size": _H, "layout": int(batch_first)}
    attributes["direction"] = attributes.get(
        "direction", "bidirectional" if directions == 2 else "forward"
    )
    return OpCase(kind, inputs, outputs, attributes)


def microsoft(
    kind: str, inputs: dict[str, Array | None], outputs: tuple[str, ...], **attributes: Any
) -> OpCase:
    """An operator of com.microsoft."""
    return OpCase(kind, inputs, outputs, attributes, "com.microsoft")


def grouped(past: int, steps: int, *, rotary: bool = False, **attributes: Any) -> OpCase:
    """GroupQueryAttention of 2 sequences, 4 heads of 16 over 2 key heads."""
    inputs: dict[str, Array | None] = {
        "query": draw(2, steps, 64),
        "key": draw(2, steps, 32),
        "value": draw(2, steps, 32),
        "past_key": draw(2, 2, past, 16) if past else None,
        "past_value": draw(2, 2, past, 16) if past else None,
        "last": np.array([past + steps - 1] * 2, np.int32),
        "total": np.array(past + steps, np.int32),
    }
    if rotary:
        angle = np.arange(16)[:, None] * 10000.0 ** (-np.arange(8) / 8)
        inputs |= {
            "cos": np.cos(angle).astype(np.float32),
            "sin": np.sin(angle).astype(np.float32),
        }
        attributes["do_rotary"] = 1
    return microsoft(
        "GroupQueryAttention",
        inputs,
        ("y", "present_key", "present_value"),
        num_heads=4,
        kv_num_heads=2,
        **attributes,
    )


_PADDING = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], np.int32)

CASES: dict[str, OpCase] = {
    "rnn_lengths_both": recurrent("RNN", 1, 2, lengths=True, activations=["Relu", "Tanh"]),
    "rnn_reverse_clip": recurrent("RNN", 1, direction="reverse", clip=0.3),
    "rnn_affine": recurrent(
        "RNN", 1, activations=["Affine"], activation_alpha=[0.5], activation_beta=[0.1]
    ),
    "lstm_lengths_both": recurrent("LSTM", 4, 2, lengths=True, peepholes=True),
    "lstm_clip": recurrent("LSTM", 4, clip=0.4, direction="reverse"),
    "lstm_coupled": recurrent("LSTM", 4, input_forget=1, initial=False),
    "lstm_activations": recurrent(
        "LSTM",
        4,
        activations=["HardSigmoid", "Softsign", "ScaledTanh"],
        activation_alpha=[0.3, 1.2],
        activation_beta=[0.4, 0.9],
    ),
    "gru_lengths_both": recurrent("GRU", 3, 2, lengths=True),
    "gru_linear": recurrent("GRU", 3, linear_before_reset=1, direction="reverse"),
    "gru_linear_clip": recurrent(
        "GRU", 3, linear_before_reset=1, clip=0.5, activations=["Sigmoid", "Relu"]
    ),
    "fused_matmul": microsoft(
        "FusedMatMul",
        {"a": draw(2, 4, 3), "b": draw(2, 5, 4)},
        ("y",),
        transA=1,
        transB=1,
        alpha=0.5,
    ),
    "embed": microsoft(
        "EmbedLayerNormalization",
        {
            "ids": _random.integers(0, 9, (2, 4)).astype(np.int32),
            "segments": _random.integers(0, 2, (2, 4)).astype(np.int32),
            "words": draw(9, 8),
            "places": draw(6, 8),
            "kinds": draw(2, 8),
            "gamma": draw(8),
            "beta": draw(8),
            "mask": np.array([[1, 1, 1, 0], [1, 0, 0, 0]], np.int32),
        },
        ("y", "count"),
        epsilon=1e-6,
    ),
    "attention": microsoft(
        "Attention",
        {"x": draw(2, 5, 6), "w": draw(6, 24), "b": draw(24), "mask": _PADDING},
        ("y",),
        num_heads=2,
    ),
    "attention_causal": microsoft(
        "Attention",
        {
            "x": draw(2, 3, 6),
            "w": draw(6, 24),
            "b": draw(24),
            "mask": None,
            "past": draw(2, 2, 2, 4, 4),
        },
        ("y", "present"),
        num_heads=2,
        unidirectional=1,
    ),
    "mha": microsoft(
        "MultiHeadAttention",
        {"q": draw(2, 3, 8), "k": draw(2, 5, 8), "v": draw(2, 5, 8), "b": draw(24), "m": _PADDING},
        ("y",),
        num_heads=2,
    ),
    "mha_past": microsoft(
        "MultiHeadAttention",
        {
            "q": draw(2, 1, 8),
            "k": draw(2, 1, 8),
            "v": draw(2, 1, 8),
            "b": None,
            "m": None,
            "bias": draw(1, 2, 1, 5),
            "pk": draw(2, 2, 4, 4),
            "pv": draw(2, 2, 4, 4),
        },
        ("y", "present_key", "present_value"),
        num_heads=2,
        scale=0.4,
    ),
    "gqa_first": grouped(0, 5),
    "gqa_next": grouped(6, 1, rotary=True),
    "gqa_window": grouped(6, 1, local_window_size=3, softcap=3.0),
    "gqa_first_rotary": grouped(0, 5, rotary=True, rotary_interleaved=1),
    "rotary": microsoft(
        "RotaryEmbedding",
        {
            "x": draw(2, 3, 16),
            "positions": np.array([[0, 1, 2], [4, 5, 7]], np.int64),
            "cos": draw(8, 4),
            "sin": draw(8, 4),
        },
        ("y",),
    ),
}


def model_of(case: OpCase) -> onnx.ModelProto:
    """A model of that one operator."""
    names = [name if array is not None else "" for name, array in case.inputs.items()]
    node = helper.make_node(
        case.op_type, names, list(case.outputs), domain=case.domain, **case.attributes
    )
    given = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in case.inputs.items()
        if array is not None
    ]
    integers = {"count"}
    results = [
        helper.make_tensor_value_info(
            name, TensorProto.INT32 if name in integers else TensorProto.FLOAT, None
        )
        for name in case.outputs
    ]
    graph = helper.make_graph([node], "one", given, results)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def main() -> None:
    """Write the file."""
    import onnxruntime

    arrays: dict[str, Array] = {}
    for name, case in CASES.items():
        data = model_of(case).SerializeToString()
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        feeds = {key: array for key, array in case.inputs.items() if array is not None}
        found = session.run(None, feeds)
        arrays[f"{name}/model"] = np.frombuffer(data, np.uint8)
        arrays |= {f"{name}/in/{key}": array for key, array in feeds.items()}
        arrays |= {
            f"{name}/out/{key}": value for key, value in zip(case.outputs, found, strict=True)
        }
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(TARGET, **arrays)
    print(f"{TARGET}: {len(arrays)} arrays, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
