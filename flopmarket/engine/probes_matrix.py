"""Whether a device's matrix units can be had, and compute what they should.

One kernel for each 16-bit type multiplies 16 x 16 by 16 x 8 small integers, whose sums are exact in
whatever order, so that every work-item's place in the result is seen. Asked under FAST alone.
"""

from __future__ import annotations

import numpy as np

from flopmarket.engine.codegen.matrix import helper, helper_name
from flopmarket.engine.dtypes import DType, bfloat16, float16
from flopmarket.engine.errors import EngineError
from flopmarket.engine.numerics import CONTRACT_ON, FAST_OPTIONS, Numerics
from flopmarket.engine.runtime.opencl import Device

FAMILIES = frozenset(["NVIDIA"])
"""Drivers whose OpenCL C takes PTX. Others are not asked."""


def matrix_units_work(device: Device) -> bool:
    """Whether 16-bit products may go through the matrix units of this device."""
    if device.info.family not in FAMILIES:
        return False
    try:
        return all(_is_right(device, dtype) for dtype in (float16, bfloat16))
    except EngineError:
        return False


def _is_right(device: Device, dtype: DType) -> bool:
    a = (np.arange(256) * 7 % 17 - 8).reshape(16, 16)
    b = (np.arange(128) * 5 % 13 - 6).reshape(8, 16)  # columns side by side
    found = np.empty((16, 8), np.float32)
    given = [x.astype(np.float32).astype(dtype.numpy).view(np.uint32) for x in (a, b)]
    module = device.compile(source(dtype), options=FAST_OPTIONS, numerics=Numerics.FAST)
    buffers = [device.alloc(array.nbytes) for array in (found, *given)]
    try:
        for buffer, array in zip(buffers[1:], given, strict=True):
            device.upload(buffer, array)
        device.run([module.launch("matrix", buffers, (32,), (32,))])
        device.download(buffers[0], found)
    finally:
        for buffer in buffers:
            buffer.release()
    return bool((found == a @ b.T + 1).all())


def source(dtype: DType) -> str:
    """The kernel that asks."""
    return f"""{CONTRACT_ON}{helper(dtype)}
__kernel __attribute__((reqd_work_group_size(32, 1, 1)))
void matrix(__global float* restrict out, __global const uint* restrict a,
    __global const uint* restrict b) {{
    const int lane = (int)get_local_id(0);
    const int four = lane / 4;
    const int pair = lane % 4;
    const int upper = four * 8 + pair;
    const int lower = upper + 64;
    const uint4 left = (uint4)(a[upper], a[lower], a[upper + 4], a[lower + 4]);
    const uint2 right = (uint2)(b[upper], b[upper + 4]);
    const float4 sums = {helper_name(dtype)}(left, right, (float4)(1.0f));
    out[four * 8 + pair * 2] = sums.x;
    out[four * 8 + pair * 2 + 1] = sums.y;
    out[four * 8 + 64 + pair * 2] = sums.z;
    out[four * 8 + 64 + pair * 2 + 1] = sums.w;
}}
"""
