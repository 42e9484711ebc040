"""Names that scripts and people rely on, and that importing them is cheap."""

from __future__ import annotations

import subprocess
import sys

import flopmarket as fm

NAMES = sorted(
    """
    Client EngineError FlopmarketError InferenceJob Model PreparedJob Program Result Tensor
    TensorSpec TrainingJob bool_ devices float32 functional grad int32 int64 int8 nn onnx optim
    trace uint32 uint64 uint8 float16 bfloat16 float64 int16 uint16 arange cat full ones stack
    where zeros quantize
    """.split()  # noqa: SIM905
)


def test_the_public_names_are_these() -> None:
    assert sorted(fm.__all__) == NAMES
    for name in NAMES:
        assert getattr(fm, name) is not None


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, flopmarket;"
        "print([m for m in ('numpy', 'grpc', 'pyopencl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
