"""The kernel cache: what is stored comes back whole, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flopmarket.engine.errors import EngineError
from flopmarket.engine.runtime.cache import KernelCache, cache_key
from flopmarket.engine.runtime.devices import DeviceInfo
from flopmarket.engine.runtime.opencl import open_device

KEY = "ab" * 32
SOURCE = """#pragma OPENCL FP_CONTRACT OFF
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void twice(__global float* a) {
  const int i = get_global_id(0);
  a[i] = a[i] + a[i];
}
"""


def test_round_trip(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path / "deep" / "er")
    assert cache.load(KEY) is None
    assert cache.store(KEY, b"binary")
    assert cache.load(KEY) == b"binary"
    cache.remove(KEY)
    assert cache.load(KEY) is None
    cache.remove(KEY)


@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_any_changed_byte_is_found_and_the_file_removed(
    tmp_path_factory: pytest.TempPathFactory, position: int, flip: int
) -> None:
    cache = KernelCache(tmp_path_factory.mktemp("cache"))
    cache.store(KEY, bytes(range(200)))
    raw = bytearray(cache.path(KEY).read_bytes())
    raw[position % len(raw)] ^= flip
    cache.path(KEY).write_bytes(raw)
    assert cache.load(KEY) is None
    assert not cache.path(KEY).exists()


@pytest.mark.parametrize("keep", [0, 10, 47, 48, 60])
def test_a_truncated_file_is_removed(tmp_path: Path, keep: int) -> None:
    cache = KernelCache(tmp_path)
    cache.store(KEY, bytes(range(200)))
    cache.path(KEY).write_bytes(cache.path(KEY).read_bytes()[:keep])
    assert cache.load(KEY) is None
    assert not cache.path(KEY).exists()


def test_the_least_recently_used_entries_leave(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path, max_bytes=4 * 1100)
    keys = [f"{i:064x}" for i in range(4)]
    for age, key in enumerate(keys):
        cache.store(key, bytes(1000))
        os.utime(cache.path(key), (1000 + age, 1000 + age))
    assert cache.load(keys[0]) is not None  # used just now, so it stays
    cache.store("f" * 64, bytes(1000))
    kept = [key for key in [*keys, "f" * 64] if cache.load(key) is not None]
    assert keys[0] in kept
    assert "f" * 64 in kept
    assert keys[1] not in kept
    assert sum(path.stat().st_size for path in tmp_path.glob("*.kernel")) <= cache.max_bytes


def test_what_cannot_fit_is_not_stored(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path, max_bytes=100)
    assert not cache.store(KEY, bytes(101))
    assert not cache.store(KEY, b"")
    assert cache.load(KEY) is None
    assert list(tmp_path.glob("*.tmp")) == []


def test_an_unusable_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="kernel cache folder") as caught:
        KernelCache(tmp_path / "file" / "kernels")
    assert caught.value.code == "CACHE_UNUSABLE"


def test_the_key_depends_on_everything_that_the_binary_does(info: DeviceInfo) -> None:
    keys = {
        cache_key("a", (), info),
        cache_key("b", (), info),
        cache_key("a", ("-w",), info),
        cache_key("a", ("-w", "-w"), info),
        cache_key("a", (), info, target="haswell"),
        cache_key("a", (), info, checked_by="rules"),
        cache_key("a", (), replace(info, name="other")),
        cache_key("a", (), replace(info, driver_version="other")),
        cache_key("a", (), replace(info, platform_version="other")),
        cache_key("a", (), replace(info, opencl_c_version="other")),
    }
    assert len(keys) == 10
    assert cache_key("a", (), info) == cache_key("a", (), replace(info, device_id="salted"))


def test_the_lock_of_a_key_is_exclusive(tmp_path: Path) -> None:
    order: list[str] = []
    started = threading.Event()

    def second() -> None:
        with KernelCache(tmp_path).locked(KEY):
            order.append("second")

    with KernelCache(tmp_path).locked(KEY):
        thread = threading.Thread(target=lambda: (started.set(), second()))
        thread.start()
        started.wait()
        thread.join(0.05)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_a_module_reloads_and_survives_damage(info: DeviceInfo, tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    with open_device(info, cache=cache) as device:
        assert not device.compile(SOURCE).from_cache
        assert device.compile(SOURCE).from_cache
        (path,) = tmp_path.glob("*.kernel")
        key = path.stem
        path.write_bytes(b"damaged")
        assert not device.compile(SOURCE).from_cache
        cache.store(key, b"verified, but no driver's binary")
        assert not device.compile(SOURCE).from_cache
        assert device.compile(SOURCE).from_cache
        assert not device.compile(SOURCE, options=("-w",)).from_cache


def test_two_processes_build_a_source_once(tmp_path: Path) -> None:
    script = f"""
import pathlib
from flopmarket.engine.runtime.cache import KernelCache
from flopmarket.engine.runtime.devices import find
from flopmarket.engine.runtime.opencl import open_device
device = open_device(find("PoCL:0"), cache=KernelCache(pathlib.Path({str(tmp_path)!r})))
print("cached" if device.compile({SOURCE!r}).from_cache else "built")
"""
    command = [sys.executable, "-c", script]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(process.communicate(timeout=60)[0].split()[-1] for process in running)
    assert said == ["built", "cached"]
