"""One open PoCL device, and one kernel cache, for the tests of the runtime."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flopmarket.engine.runtime.cache import KernelCache
from flopmarket.engine.runtime.devices import DeviceInfo, find
from flopmarket.engine.runtime.opencl import Device, open_device


@pytest.fixture(scope="session")
def info() -> DeviceInfo:
    return find("PoCL:0")


@pytest.fixture(scope="session")
def device(info: DeviceInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    with open_device(info, cache=KernelCache(tmp_path_factory.mktemp("kernels"))) as opened:
        yield opened
