"""Where the cases come from: the ``onnx`` package generates its node cases and ships the others.

Kinds: ``node`` (one operator each, and its expansion into others), ``simple``,
``pytorch-converted``, ``pytorch-operator`` (small models with data), ``real`` (zoo models without
their weights: inputs are made by a formula, outputs are stored).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import DATA_DIR, load_model_tests

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")
LIGHT = Path(DATA_DIR) / "light"


@dataclass(frozen=True)
class Case:
    """One case: a name such as ``test_add``, its kind and onnx's own description of it."""

    name: str
    kind: str
    source: Any

    @property
    def tolerance(self) -> tuple[float, float]:
        """(rtol, atol) that the case asks for."""
        return self.source.rtol, self.source.atol

    def model(self) -> onnx.ModelProto | Path:
        """The model, as what ``fm.onnx.load`` takes."""
        if self.kind == "node":
            model: onnx.ModelProto = self.source.model
            return model
        if self.kind == "real":
            return LIGHT / Path(self.source.url).name
        return Path(self.source.model_dir) / "model.onnx"

    def data(self) -> Iterator[tuple[list[Any], list[Any]]]:
        """(inputs, expected outputs) of every data set, in the model's order."""
        if self.kind == "node":
            for inputs, outputs in self.source.data_sets:
                yield [_plain(item) for item in inputs], [_plain(item) for item in outputs]
        elif self.kind == "real":
            yield self._light_data()
        else:
            path = self.model()
            assert isinstance(path, Path)
            model = onnx.load(path, load_external_data=False)
            for folder in sorted(Path(self.source.model_dir).glob("test_data_set*")):
                yield (
                    _stored(folder, "input", model.graph.input),
                    _stored(folder, "output", model.graph.output),
                )

    def _light_data(self) -> tuple[list[Any], list[Any]]:
        path = self.model()
        assert isinstance(path, Path)
        model = onnx.load(path)
        given = {tensor.name for tensor in model.graph.initializer}
        inputs = []
        for value in model.graph.input:
            if value.name not in given:
                shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
                count = int(np.prod(shape))
                inputs.append((np.arange(count).reshape(shape) / count).astype(np.float32))
        outputs = []
        for at in range(len(model.graph.output)):
            stored = path.with_name(f"{path.stem}_output_{at}.pb")
            outputs.append(numpy_helper.to_array(onnx.load_tensor(stored)))
        return inputs, outputs


@cache
def collect() -> tuple[Case, ...]:
    """Every case, by kind and then by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [
            Case(test.name, kind, test) for kind in KINDS for test in load_model_tests(kind=kind)
        ]
    return tuple(sorted(found, key=lambda case: (KINDS.index(case.kind), case.name)))


def _plain(item: Any) -> Any:
    if isinstance(item, onnx.TensorProto):
        return numpy_helper.to_array(item)
    return item


def _stored(folder: Path, word: str, values: Any) -> list[Any]:
    found: list[Any] = []
    for at in range(len(list(folder.glob(f"{word}_*.pb")))):
        data = (folder / f"{word}_{at}.pb").read_bytes()
        kind = values[at].type.WhichOneof("value")
        if kind == "sequence_type":
            found.append(numpy_helper.to_list(onnx.SequenceProto.FromString(data)))
        elif kind == "optional_type":
            found.append(numpy_helper.to_optional(onnx.OptionalProto.FromString(data)))
        else:
            found.append(numpy_helper.to_array(onnx.TensorProto.FromString(data)))
    return found
