"""Write tests/vectors/torch/sequence.npz: what torch gives for tests/engine/sequence/cases.py.

    python -m tests.tools.torch_goldens_sequence

torch is needed only here. Keys are "case/in/0", "case/out/0", "case/grad/0", ...; a weighted sum of
the float outputs, the weights being those of :func:`weights`, is what derivatives are taken of.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.engine.sequence.cases import CASES, Case
from tests.engine.sequence.module_cases import MODULES, torch_module
from tests.engine.sequence.recurrent_cases import RECURRENT, torch_run

TARGET = Path(__file__).parents[1] / "vectors" / "torch" / "sequence.npz"


def weights(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """What an output is multiplied by before it is summed."""
    return np.cos(np.arange(int(np.prod(shape)), dtype=np.float32)).reshape(shape)


def run(case: Case) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs, results and derivatives of one case by torch."""
    import torch

    names = {**vars(torch.nn.functional), **vars(torch)}
    tensors = [
        torch.from_numpy(x.copy()).requires_grad_(case.gradient and x.dtype == np.float32)
        for x in case.arrays
    ]
    result = case.call(SimpleNamespace(**names), *tensors)
    outputs = list(result) if isinstance(result, tuple | list) else [result]
    found = {f"in/{at}": x for at, x in enumerate(case.arrays)}
    found |= {f"out/{at}": x.detach().numpy() for at, x in enumerate(outputs)}
    if case.gradient:
        loss = torch.zeros(())
        for output in outputs:
            if output.is_floating_point():
                loss = loss + (output * torch.from_numpy(weights(tuple(output.shape)))).sum()
        loss.backward()
        found |= {
            f"grad/{at}": x.grad.numpy()
            for at, x in enumerate(tensors)
            if x.requires_grad and x.grad is not None
        }
    return found


def main() -> None:
    """Write the file."""
    arrays = {
        f"{name}/{key}": value for name, case in CASES.items() for key, value in run(case).items()
    }
    for name, network in RECURRENT.items():
        arrays |= {f"{name}/{key}": value for key, value in torch_run(network).items()}
    for name, module in MODULES.items():
        arrays |= {f"{name}/{key}": value for key, value in torch_module(module).items()}
    TARGET.parent.mkdir(exist_ok=True)
    np.savez_compressed(TARGET, **arrays)
    print(f"{TARGET}: {len(arrays)} arrays, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
