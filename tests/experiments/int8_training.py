"""Does training that knows of the quantisation help? The digits network, several seeds.

Every seed trains the float network, then goes on for a few epochs in several ways: as before, with
8-bit fake quantisation in the forward pass (straight-through gradients), and with 4-bit weights.
Each result is quantised by ``fm.quantize`` and tested on the held-out images; weights trained for
the codes in question are put on them first. Prints the table of docs/quantisation.md;
``python -m tests.experiments.int8_training``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

import flopmarket as fm
from flopmarket import functional, nn, optim
from flopmarket.demo import digits
from flopmarket.engine.quantize import quantize

Array = np.ndarray[Any, Any]
Values = dict[str, Array]
Options = dict[str, Any]

EPOCHS, MORE_EPOCHS = 12, 4
BATCH = 64


def faked_weight(weight: fm.Tensor, bits: int, group: int) -> fm.Tensor:
    """Weights [O, ...] as codes hold them: a scale a row at 8 bits, one a group at 4."""
    rows = weight.reshape(weight.shape[0], -1)
    terms = rows.shape[1]
    if bits == 4 and terms > group and terms % group == 0:
        rows = rows.reshape(-1, group)
    top = 2 ** (bits - 1) - 1
    scale = rows.abs().amax(1).maximum(1e-12) / float(top)
    zero = fm.zeros(rows.shape[0])
    faked = functional.fake_quantize_per_channel_affine(rows, scale, zero, 0, -top, top)
    return faked.reshape(*weight.shape)


def faked_activation(x: fm.Tensor) -> fm.Tensor:
    """Activations that are never negative, in 8 bits over the range of the batch."""
    scale = x.amax().maximum(1e-12) / 255.0
    return functional.fake_quantize_per_tensor_affine(x, scale, 0, 0, 255)


class AwareConv2d(nn.Conv2d):
    """A convolution that trains as if its operands were quantised."""

    bits, group = 8, 32

    def forward(self, x: fm.Tensor) -> fm.Tensor:
        weight = faked_weight(self.weight, self.bits, self.group)
        return functional.conv2d(faked_activation(x), weight, self.bias, padding=1)


class AwareLinear(nn.Linear):
    """The same of a linear layer."""

    bits, group = 8, 32

    def forward(self, x: fm.Tensor) -> fm.Tensor:
        weight = faked_weight(self.weight, self.bits, self.group)
        return functional.linear(faked_activation(x), weight, self.bias)


def classifier(widths: tuple[int, int], bits: int | None = None, group: int = 32) -> nn.Module:
    """``digits.convolutional_classifier`` of these channels; ``bits`` makes its layers aware."""
    first, second = widths
    convolution = nn.Conv2d if bits is None else AwareConv2d
    linear = nn.Linear if bits is None else AwareLinear
    layers: list[nn.Module] = [
        convolution(1, first, 3, padding=1),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        convolution(first, second, 3, padding=1),
        nn.BatchNorm2d(second),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        linear(second * 4 * 4, 10),
    ]
    for layer in layers:
        if isinstance(layer, AwareConv2d | AwareLinear):
            layer.bits, layer.group = bits or 8, group
    return nn.Sequential(*layers)


def trained(
    model: nn.Module, data: digits.Digits, epochs: int, rate: float, seed: int, start: Values | None
) -> Values:
    """Values after training from ``start``, or from the seed."""
    job = fm.TrainingJob(
        model=model,
        loss=functional.cross_entropy,
        optimizer=optim.Adam(lr=rate),
        data=(data.train_x, data.train_y),
        batch=BATCH,
        epochs=epochs,
        seed=seed,
        initial=start,
    )
    return job.weights(job.run_local())


def snapped(model: nn.Module, values: Values) -> Values:
    """The values with the weights of aware layers on the codes that they were trained on."""
    found = dict(values)
    for at, layer in enumerate(model.modules()):
        if isinstance(layer, AwareConv2d | AwareLinear):
            name = f"{at - 1}.weight"
            weight = fm.Tensor(values[name], device="reference")
            found[name] = faked_weight(weight, layer.bits, layer.group).numpy()
    return found


def figures(
    model: nn.Module, values: Values, data: digits.Digits, ways: Mapping[str, Options]
) -> dict[str, float]:
    """Test accuracy in floats and in each of the ``ways``, with the model's ``values``."""
    model.load_state_dict(values)
    test = (data.test_x, data.test_y)
    found: dict[str, float] = {}
    for name, options in ways.items():
        report = quantize(model, data.train_x[:256], evaluate=test, max_loss=1.0, **options).report
        found["float"], found[name] = report.before, report.after
    return found


def main() -> None:
    """Train, quantise, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--groups", type=int, nargs="*", default=[32, 4096])
    parser.add_argument("--widths", type=int, nargs=2, default=[16, 32])
    options = parser.parse_args()
    widths = (options.widths[0], options.widths[1])
    data = digits.load()
    codes: dict[str, Options] = {"int8": {"bits": 8}}
    codes |= {f"int4, groups of {g}": {"bits": 4, "group": g} for g in options.groups}
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        plain = classifier(widths)
        start = trained(plain, data, EPOCHS, 2e-3, seed, None)
        for name in ("plain", *codes):
            model = classifier(widths, **codes[name]) if name in codes else plain
            values = trained(model, data, MORE_EPOCHS, 5e-4, seed + 100, start)
            found = figures(plain, values, data, codes)
            if name in codes:
                own = figures(plain, snapped(model, values), data, {name: codes[name]})
                found[name] = own[name]
            rows.setdefault(name, []).append(found)
            print(json.dumps({"seed": seed, "way": name, **found}), flush=True)
    columns = list(next(iter(rows.values()))[0])
    print("| last epochs | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name, results in rows.items():
        cells = []
        for column in columns:
            of = [100 * result[column] for result in results]
            cells.append(f"{statistics.mean(of):.2f} ({min(of):.2f} to {max(of):.2f})")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
