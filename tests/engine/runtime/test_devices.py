"""Discovery and naming of devices, on this machine and on invented platforms."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyopencl as cl
import pytest

from flopmarket.engine.errors import EngineError
from flopmarket.engine.runtime import pocl
from flopmarket.engine.runtime.devices import (
    DeviceInfo,
    DeviceKind,
    discover,
    find,
    one_per_board,
)


def invented_device(name: str = "gfx1100", **fields: object) -> SimpleNamespace:
    values: dict[str, object] = {
        "name": name,
        "vendor": "AMD",
        "driver_version": "1",
        "version": "OpenCL 2.0",
        "opencl_c_version": "OpenCL C 2.0",
        "type": cl.device_type.GPU,
        "max_compute_units": 96,
        "max_clock_frequency": 2500,
        "global_mem_size": 24 << 30,
        "max_mem_alloc_size": 20 << 30,
        "mem_base_addr_align": 2048,
        "native_vector_width_float": 1,
        "local_mem_size": 65536,
        "max_work_group_size": 256,
        "extensions": "cl_khr_fp64",
        "single_fp_config": 0b100110,
    }
    return SimpleNamespace(**(values | fields))


def invented_platform(name: str, *devices: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(name=name, version="OpenCL 2.0", get_devices=lambda: list(devices))


def amd(bus: int, **fields: object) -> SimpleNamespace:
    topology = SimpleNamespace(bus=bus, device=0, function=0)
    return invented_device(
        extensions="cl_khr_fp64 cl_amd_device_attribute_query",
        topology_amd=topology,
        board_name_amd="Radeon RX 7900 XTX",
        **fields,
    )


def nvidia(bus: int) -> SimpleNamespace:
    return invented_device(
        "RTX", extensions="cl_nv_device_attribute_query", pci_bus_id_nv=bus, pci_slot_id_nv=0
    )


def test_this_machine_has_pocl(info: DeviceInfo) -> None:
    assert info.kind is DeviceKind.CPU
    assert info.family == "PoCL"
    assert info.compute_units >= 1
    assert info.base_alignment_bytes >= 64
    assert info.native_vector_width_float in (4, 8, 16)
    assert {"denorm", "fma", "correctly_rounded_divide_sqrt"} <= set(info.float_flags)
    assert info.has_fp64
    assert info.pci_address is None
    assert len(info.device_id) == 64


def test_the_id_is_stable_and_salted() -> None:
    (first,), (second,) = discover()[:1], discover()[:1]
    assert first == second
    assert discover(salt="worker 2")[0].device_id != first.device_id
    assert replace(discover(salt="worker 2")[0], device_id="") == replace(first, device_id="")


def test_two_pthread_devices_are_two() -> None:
    script = (
        "from flopmarket.engine.runtime.devices import discover\n"
        "for card in discover(): print(card.index_name, card.device_id)"
    )
    environment = os.environ | {"POCL_DEVICES": "pthread pthread"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("PoCL")]
    assert [name for name, _ in lines] == ["PoCL:0", "PoCL:1"]
    assert lines[0][1] != lines[1][1]


def test_no_driver_is_an_empty_list_and_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_platform() -> list[object]:
        raise cl.LogicError("clGetPlatformIDs failed: PLATFORM_NOT_FOUND_KHR")

    monkeypatch.setattr(cl, "get_platforms", no_platform)
    assert discover() == []
    with pytest.raises(EngineError, match="no OpenCL device") as caught:
        find()
    assert caught.value.code == "DEVICE_NONE"
    assert "pip install" in caught.value.hint


def test_a_platform_without_devices_is_passed_over() -> None:
    def none() -> list[object]:
        raise cl.RuntimeError("clGetDeviceIDs failed: DEVICE_NOT_FOUND")

    empty = SimpleNamespace(name="Clover", version="", get_devices=none)
    cards = discover(platforms=[empty, invented_platform("NVIDIA CUDA", nvidia(1))])
    assert [card.index_name for card in cards] == ["NVIDIA:0"]


def test_one_board_through_two_drivers_is_one_device() -> None:
    rusticl = invented_platform("rusticl", amd(3), amd(4))
    rocm = invented_platform("AMD Accelerated Parallel Processing", amd(4))
    for platforms in ([rusticl, rocm], [rocm, rusticl]):
        cards = discover(platforms=platforms)
        assert sorted(card.index_name for card in cards) == ["ROCm:0", "rusticl:0"]
        assert {card.pci_address for card in cards} == {"0000:03:00.0", "0000:04:00.0"}
    assert cards[0].name == "Radeon RX 7900 XTX"


def test_the_id_of_a_board_does_not_depend_on_its_driver() -> None:
    (first,) = discover(platforms=[invented_platform("rusticl", amd(3))])
    (second,) = discover(
        platforms=[invented_platform("AMD Accelerated Parallel Processing", amd(3))]
    )
    assert first.device_id == second.device_id


def test_pocl_is_the_last_choice_for_a_board() -> None:
    card = discover(platforms=[invented_platform("NVIDIA CUDA", nvidia(1))])[0]
    through_pocl = replace(card, index_name="PoCL:1")
    assert one_per_board([through_pocl, card]) == [card]


def test_devices_without_an_address_are_never_merged() -> None:
    cards = discover(
        platforms=[invented_platform("Intel(R) OpenCL", invented_device(), invented_device())]
    )
    assert [card.index_name for card in cards] == ["Intel:0", "Intel:1"]
    assert cards[0].device_id != cards[1].device_id


CARDS = discover(
    platforms=[
        invented_platform("Portable Computing Language", invented_device("pthread-x", type=2)),
        invented_platform("NVIDIA CUDA", nvidia(1), nvidia(2)),
    ]
)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("PoCL:0", "PoCL:0"),
        ("pocl:0", "PoCL:0"),
        (" NVIDIA:1 ", "NVIDIA:1"),
        ("2", "NVIDIA:1"),
        ("pthread", "PoCL:0"),
        (None, "NVIDIA:0"),
        (CARDS[0].device_id, "PoCL:0"),
    ],
)
def test_find(spec: str | None, name: str) -> None:
    assert find(spec, devices=CARDS).index_name == name


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ("9", "DEVICE_UNKNOWN"),
        ("rusticl:0", "DEVICE_UNKNOWN"),
        ("", "DEVICE_UNKNOWN"),
        ("RTX", "DEVICE_AMBIGUOUS"),
    ],
)
def test_find_says_what_exists(spec: str, code: str) -> None:
    with pytest.raises(EngineError) as caught:
        find(spec, devices=CARDS)
    assert caught.value.code == code
    assert "NVIDIA:1" in caught.value.message


@pytest.mark.parametrize(
    ("flags", "target"),
    [
        (
            "avx512f avx512bw avx512cd avx512dq avx512vl adx clwb clflushopt bmi2 fma avx2",
            "skylake-avx512",
        ),
        ("avx2 fma f16c bmi1 bmi2 movbe abm avx", "haswell"),
        ("avx popcnt pclmulqdq", "sandybridge"),
        ("sse2", "x86-64"),
    ],
)
def test_the_target_for_an_unknown_processor_has_no_instruction_it_lacks(
    info: DeviceInfo, tmp_path: Path, flags: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    unknown = replace(
        info, opencl_version="OpenCL 3.0 PoCL HSTR: pthread-x86_64-unknown-linux-gnu-generic"
    )
    known = replace(info, opencl_version="OpenCL 3.0 PoCL HSTR: pthread-x86_64-pc-linux-gnu-znver3")
    assert pocl.target_name(unknown, cpuinfo) == target
    assert pocl.target_name(known, cpuinfo) == ""
