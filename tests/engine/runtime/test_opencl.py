"""The OpenCL wrapper: buffers, launches, and errors that say what was attempted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flopmarket.engine.errors import EngineError
from flopmarket.engine.runtime.devices import DeviceInfo
from flopmarket.engine.runtime.launches import Module
from flopmarket.engine.runtime.opencl import Device, open_device

SOURCE = """#pragma OPENCL FP_CONTRACT OFF
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void scale(__global float* a, float by) {
  const int i = get_global_id(0);
  a[i] = a[i] * by;
}
__kernel void add(__global const float* a, __global const float* b, __global float* c) {
  const int i = get_global_id(0) + get_global_id(1) * get_global_size(0);
  c[i] = a[i] + b[i];
}
"""


@pytest.fixture(scope="module")
def module(device: Device) -> Module:
    return device.compile(SOURCE)


def code_of(caught: pytest.ExceptionInfo[EngineError]) -> str:
    return caught.value.code


def test_upload_run_download(device: Device, module: Module) -> None:
    a, b, c = (device.alloc(48) for _ in range(3))
    x, y = np.arange(12, dtype=np.float32), np.full(12, 0.5, np.float32)
    device.upload(a, x)
    device.upload(b, y)
    scale = module.launch("scale", [a, np.float32(2)], (12,))
    add = module.launch("add", [a, b, c], (6, 2))
    device.run([scale, scale, add])
    result = np.empty((3, 4), np.float32)
    device.download(c, result)
    assert np.array_equal(result.ravel(), x * 4 + y)
    assert scale.local_size == (1,)
    assert module.names == ("add", "scale")


def test_launches_of_one_kernel_keep_their_own_arguments(device: Device, module: Module) -> None:
    a, b = device.alloc(4), device.alloc(4)
    one = np.ones(1, np.float32)
    device.upload(a, one)
    device.upload(b, one)
    launches = [
        module.launch("scale", [a, np.float32(3)], (1,)),
        module.launch("scale", [b, np.float32(5)], (1,)),
    ]
    device.run(launches * 40)  # more than one flush
    launches[0].rebind(1, np.float32(0.5))
    device.run(launches[:1])
    got = np.empty(1, np.float32)
    device.download(a, got)
    assert np.isclose(got[0], 3.0**40 / 2, rtol=1e-5)
    device.download(b, got)
    assert np.isclose(got[0], 5.0**40, rtol=1e-5)


def test_offsets_and_copies(device: Device) -> None:
    buffer, other = device.alloc(64), device.alloc(16)
    buffer.fill_zero()
    device.upload(buffer, np.array([1, 2, 3], np.uint8), offset=1)
    device.copy(buffer, other, 4, source_offset=2, target_offset=8)
    got = np.empty(64, np.uint8)
    device.download(buffer, got)
    expected = np.zeros(64, np.uint8)
    expected[1:4] = 1, 2, 3
    assert np.array_equal(got, expected)
    part = np.empty(4, np.uint8)
    device.download(other, part, offset=8)
    assert part.tolist() == [2, 3, 0, 0]


@pytest.mark.parametrize("size", [1, 2, 7, 12, 64, 4100])
def test_poison_fills_every_byte(device: Device, size: int) -> None:
    buffer = device.alloc(size)
    buffer.poison(0xFF)
    got = np.zeros(size, np.uint8)
    device.download(buffer, got)
    assert (got == 0xFF).all()


def test_copies_beyond_a_buffer_are_refused(device: Device) -> None:
    buffer = device.alloc(16)
    array = np.zeros(5, np.float32)
    for action in (device.upload, device.download):
        with pytest.raises(EngineError, match="the buffer has 16") as caught:
            action(buffer, array)
        assert code_of(caught) == "BUFFER_RANGE"
        with pytest.raises(EngineError):
            action(buffer, array[:1], offset=13)
        with pytest.raises(EngineError):
            action(buffer, array[:1], offset=-1)


def test_download_wants_a_contiguous_array(device: Device) -> None:
    buffer = device.alloc(64)
    with pytest.raises(EngineError) as caught:
        device.download(buffer, np.zeros((4, 4), np.float32).T[:2])
    assert code_of(caught) == "BUFFER_ARRAY"
    device.upload(buffer, np.arange(16, dtype=np.float32).reshape(4, 4).T)  # copied on the way
    got = np.empty(4, np.float32)
    device.download(buffer, got)
    assert got.tolist() == [0, 4, 8, 12]


def test_allocation_limits(device: Device) -> None:
    for size in (0, -1, device.info.max_allocation_bytes + 1):
        with pytest.raises(EngineError, match=f"cannot allocate {size} bytes") as caught:
            device.alloc(size)
        assert code_of(caught) == "BUFFER_SIZE"
        assert not caught.value.retryable


def test_memory_is_counted_and_given_back(info: DeviceInfo) -> None:
    with open_device(info) as device:
        first, second = device.alloc(1000), device.alloc(24)
        assert device.allocated_bytes == 1024
        first.release()
        assert device.allocated_bytes == 24
        del second
        assert device.allocated_bytes == 0


def test_wipe_leaves_nothing_to_read(info: DeviceInfo) -> None:
    with open_device(info) as device:
        buffers = [device.alloc(100), device.alloc(64)]
        for buffer in buffers:
            buffer.poison(0x5A)
        device.wipe()
        for buffer in buffers:
            got = np.ones(buffer.size_bytes, np.uint8)
            device.download(buffer, got)
            assert not got.any()


def test_a_build_failure_shows_the_log(device: Device) -> None:
    with pytest.raises(EngineError, match="undeclared_thing") as caught:
        device.compile(SOURCE.replace("by;", "undeclared_thing;"), numerics=None)
    assert code_of(caught) == "KERNEL_BUILD"
    assert not caught.value.retryable


def test_exact_mode_lints_and_fast_mode_does_not(device: Device) -> None:
    fast = SOURCE.replace("a[i] * by", "native_exp(a[i])")
    with pytest.raises(EngineError) as caught:
        device.compile(fast)
    assert code_of(caught) == "LINT_CALL"
    assert device.compile(fast, numerics=None).names == ("add", "scale")


def test_bad_launches(device: Device, module: Module) -> None:
    a = device.alloc(16)
    by = np.float32(1)
    cases = [
        ("KERNEL_UNKNOWN", "nothing", [a, by], (4,), None),
        ("KERNEL_ARGUMENTS", "scale", [a], (4,), None),
        ("KERNEL_ARGUMENTS", "scale", [a, 1.0], (4,), None),
        ("KERNEL_SIZE", "scale", [a, by], (), None),
        ("KERNEL_SIZE", "scale", [a, by], (0,), None),
        ("KERNEL_SIZE", "scale", [a, by], (1, 1, 1, 1), None),
        ("KERNEL_SIZE", "add", [a, a, a], (4,), (3,)),
        ("KERNEL_SIZE", "add", [a, a, a], (4,), (1, 1)),
        ("OPENCL", "scale", [a, np.float64(1)], (4,), None),
    ]
    for code, name, arguments, size, local in cases:
        with pytest.raises(EngineError) as caught:
            module.launch(name, arguments, size, local)  # type: ignore[arg-type]
        assert code_of(caught) == code, (name, arguments, size)


def test_a_refused_launch_names_the_kernel(device: Device, module: Module) -> None:
    launch = module.launch("scale", [device.alloc(16), np.float32(1)], (4,))
    launch.local_size = (2,)
    with pytest.raises(EngineError, match=r"launch scale over \(4,\)") as caught:
        device.run([launch])
    assert code_of(caught) == "OPENCL"


def test_a_card_that_no_longer_fits_is_refused(info: DeviceInfo) -> None:
    for gone in (replace(info, position=(99, 0)), replace(info, driver_version="older")):
        with pytest.raises(EngineError) as caught:
            open_device(gone)
        assert code_of(caught) == "DEVICE_GONE"
        assert caught.value.retryable
