"""Write the golden files of tests/engine/functional: what torch answers, and its derivatives.

Run ``python -m tests.tools.torch_goldens`` where torch is installed, after changing the cases. The
files hold the arguments too, so that a new generator of random numbers in NumPy changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.engine.functional import double_cases, optimizer_cases, spatial_cases, value_cases
from tests.engine.functional.case import Array, Case, outputs_of, weights

GOLDENS = Path(__file__).parent.parent / "engine" / "functional" / "goldens"
FAMILIES = {
    "spatial": spatial_cases.CASES,
    "values": value_cases.CASES,
    "doubles": double_cases.CASES,
}


class Functional:
    """torch.nn.functional, and the two of its relatives that live elsewhere."""

    channel_shuffle = staticmethod(torch.channel_shuffle)

    @staticmethod
    def recurrent(kind: str, x: Any, hidden: Any, weights: Any) -> Any:
        """Outputs of one layer in one direction that begins with ``hidden``."""
        first = (hidden, hidden) if kind == "lstm" else hidden
        return getattr(torch, kind)(x, first, weights, True, 1, 0.0, False, False, False)[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.nn.functional, name)


def answer(case: Case) -> dict[str, Array]:
    """Arguments, outputs, and the derivatives of the weighted sum of the first output."""
    arrays = case.arrays()
    moving = case.moving(arrays)
    tensors = [torch.tensor(array, requires_grad=at in moving) for at, array in enumerate(arrays)]
    outputs = outputs_of(case.call(Functional(), *tensors))
    loss = (outputs[0] * torch.tensor(weights(tuple(outputs[0].shape)))).sum()
    gradients = torch.autograd.grad(loss, [tensors[at] for at in moving])
    stored = {f"{case.name}/in{at}": array for at, array in enumerate(arrays)}
    stored |= {f"{case.name}/out{at}": o.detach().numpy() for at, o in enumerate(outputs)}
    for at, gradient in zip(moving, gradients, strict=True):
        stored[f"{case.name}/grad{at}"] = gradient.numpy()
    return stored


def main() -> None:
    """Write every family."""
    GOLDENS.mkdir(exist_ok=True)
    for family, cases in FAMILIES.items():
        stored: dict[str, Array] = {}
        for case in cases.found.values():
            stored |= answer(case)
        np.savez_compressed(GOLDENS / f"{family}.npz", **stored)
        print(family, len(cases.found), "cases", (GOLDENS / f"{family}.npz").stat().st_size)
    np.savez_compressed(GOLDENS / "optimizers.npz", **optimizer_answers())


def optimizer_answers() -> dict[str, Array]:
    """Parameters after every update, and learning rates of every update."""
    stored = {}
    for name, (kind, options) in optimizer_cases.OPTIMIZERS.items():
        values = [torch.tensor(v) for v in optimizer_cases.parameters().values()]
        optimizer = getattr(torch.optim, kind)(values, **options)
        for at in range(optimizer_cases.STEPS):
            for value, gradient in zip(values, optimizer_cases.gradients(at).values(), strict=True):
                value.grad = torch.tensor(gradient)
            optimizer.step()
        for at, value in enumerate(values):
            stored[f"{name}/p{at}"] = value.numpy()
    for name, (kind, options) in optimizer_cases.SCHEDULES.items():
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=optimizer_cases.RATE)
        schedule = getattr(torch.optim.lr_scheduler, kind)(optimizer, **options)
        rates = []
        for _ in range(optimizer_cases.RATES):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        stored[f"{name}/rates"] = np.array(rates)
    values = [torch.tensor(v) for v in optimizer_cases.parameters().values()]
    for value, gradient in zip(values, optimizer_cases.gradients(0).values(), strict=True):
        value.grad = torch.tensor(gradient)
    norm = torch.nn.utils.clip_grad_norm_(values, optimizer_cases.MAX_NORM)
    stored["clip/norm"] = norm.numpy()
    for at, value in enumerate(values):
        assert value.grad is not None
        stored[f"clip/p{at}"] = value.grad.numpy()
    return stored


if __name__ == "__main__":
    main()
