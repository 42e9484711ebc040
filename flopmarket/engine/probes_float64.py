"""How FMA of float64 is rendered on a device: asked when a program first needs it.

The counterpart of ``probes.contraction_is_exact`` for float64; ``runtime/resident.py`` asks before
it plans a program that computes in float64, so that no other program pays for the question.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flopmarket.engine import dtypes, floats, samples
from flopmarket.engine.codegen.opencl import Target
from flopmarket.engine.codegen.prelude import prelude
from flopmarket.engine.errors import EngineError
from flopmarket.engine.probes import CONTRACTING_FAMILIES, build_options, compare
from flopmarket.engine.runtime.memory import Buffer
from flopmarket.engine.runtime.opencl import Device

Array = np.ndarray[Any, Any]

_COUNT = 1024
_KERNEL = """
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void fma_f64(__global const double* restrict a, __global const double* restrict b,
    __global const double* restrict c, __global double* restrict out) {
    const int first = (int)get_global_id(0) * 64;
    for (int i = first; i < first + 64; i += 1) {
        out[i] = fx1_fma_double(a[i], b[i], c[i]);
    }
}
"""


def contraction_is_exact(device: Device) -> bool:
    """Whether contracted ``a * b + c`` of doubles may stand for ``fma()``, which PoCL has slowly.

    False is no failure: FMA is then rendered as ``fma()``.
    """
    if device.info.family not in CONTRACTING_FAMILIES or not device.info.has_fp64:
        return False
    given = _samples()
    with np.errstate(all="ignore"):
        expected = dtypes.canonical(floats.fma64(*given))
    source = prelude(Target(contract_helper_double=True), _KERNEL) + _KERNEL
    buffers: list[Buffer] = []
    values = np.empty_like(expected)
    try:
        module = device.compile(source, options=build_options(device.info))
        buffers.extend(device.alloc(array.nbytes) for array in (*given, expected))
        for buffer, array in zip(buffers, given, strict=False):
            device.upload(buffer, array)
        device.run([module.launch("fma_f64", buffers, (_COUNT // 64,), (1,))])
        device.download(buffers[-1], values)
    except EngineError:
        return False
    finally:
        for buffer in buffers:
            buffer.release()
    return compare("float64 contraction", expected, dtypes.canonical(values)).passed


def _samples() -> tuple[Array, Array, Array]:
    """Triples whose sum shows a product that was rounded, or a sum that was rounded twice."""
    sampler = samples.Sampler(7)

    def wide() -> Array:
        return np.asarray(np.ldexp(sampler.unit(_COUNT), sampler.below(60, _COUNT) - 30))

    a, b = wide(), wide()
    c = np.where(sampler.chance(0.6, _COUNT), -(a * b), wide())
    trap = sampler.chance(0.1, _COUNT)
    a, b = (np.where(trap, 1 + 2.0**-26, x) for x in (a, b))
    return a, b, np.where(trap, 2.0**-120, c)
