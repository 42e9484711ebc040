"""The process that builds golden kernels beside admission: what it leaves, and when it is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flopmarket.engine.golden import builder, suite
from flopmarket.engine.runtime import devices
from flopmarket.engine.runtime.devices import DeviceKind
from flopmarket.engine.runtime.open import open_target, opened
from flopmarket.engine.runtime.resident import CompileOptions

NAME = "layer norm"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    every = suite.programs()
    monkeypatch.setattr(suite, "programs", lambda: {NAME: every[NAME]})
    monkeypatch.setattr(builder, "LAW", ("exp2",))


@pytest.mark.usefixtures("few")
def test_what_it_builds_is_found_in_the_cache(tmp_path: Path) -> None:
    info = devices.find(None)
    with opened(info, CompileOptions(cache_dir=tmp_path)) as device:
        target = open_target(device)
        source, options = builder._source(NAME, device, target)
        assert not device.is_built(source, options)
        builder.build(
            info.index_name,
            tmp_path,
            contract_helper=target.contract_helper,
            parent=os.getppid(),
        )
        assert device.is_built(source, options)
        assert device.compile(source, options=options).from_cache


@pytest.mark.usefixtures("few")
def test_it_stops_when_nobody_waits_for_it(tmp_path: Path) -> None:
    info = devices.find(None)
    with opened(info, CompileOptions(cache_dir=tmp_path)) as device:
        target = open_target(device)
        builder.build(info.index_name, tmp_path, contract_helper=target.contract_helper, parent=-1)
        assert not device.is_built(*builder._source(NAME, device, target))


@pytest.mark.usefixtures("few")
def test_few_programs_are_built_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder.subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    with (
        opened(devices.find(None), CompileOptions(cache_dir=tmp_path)) as device,
        builder.second_builder(device, contract_helper=False),
    ):
        pass


def test_it_runs_beside_a_cold_admission_and_is_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder.os, "cpu_count", lambda: 2)
    started = []
    popen = builder.subprocess.Popen

    def start(command: list[str], **options: int) -> object:
        started.append(popen(["sleep", "600"], **options))
        return started[-1]

    monkeypatch.setattr(builder.subprocess, "Popen", start)
    with opened(devices.find(None), CompileOptions(cache_dir=tmp_path)) as device:
        if device.info.kind is not DeviceKind.CPU:
            pytest.skip("a GPU's driver builds in a moment")
        with builder.second_builder(device, contract_helper=False):
            assert started[0].poll() is None
        assert started[0].poll() is not None


def test_a_machine_that_starts_no_process_builds_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder.sys, "executable", str(tmp_path / "no python"))
    monkeypatch.setattr(builder.os, "cpu_count", lambda: 2)
    with (
        opened(devices.find(None), CompileOptions(cache_dir=tmp_path)) as device,
        builder.second_builder(device, contract_helper=False),
    ):
        pass
