"""Engine processes on devices that do not compute FX1, made of the real one.

Their compilers do something else than the source says (``engine/law/mutants.py``): one contracts
everywhere, the other never, and both divide by multiplying with the reciprocal. Both fail
admission, both give the same bits twice, and they are of two classes: fast-only devices, whose
every result is computed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ClassVar

from flopmarket.engine.runtime.devices import DeviceInfo
from flopmarket.engine.runtime.open import opened
from flopmarket.engine.runtime.opencl import Device
from flopmarket.engine.runtime.resident import CompileOptions
from flopmarket.jobs.host import EngineProcess
from flopmarket.jobs.process import EngineServer
from tests.engine.law.mutants import MutatedDevice

_PRAGMA = re.compile(r"#pragma OPENCL FP_CONTRACT (?:ON|OFF)")
_DIVISION = re.compile(r"\{ return [^;{}]* / [^;{}]*; \}")


def contracting(source: str) -> str:
    """Contraction on everywhere, and quotients by way of the reciprocal."""
    return _reciprocal(_PRAGMA.sub("#pragma OPENCL FP_CONTRACT ON", source))


def splitting(source: str) -> str:
    """Contraction off everywhere: a product is rounded before it is added. The same quotients."""
    return _reciprocal(_PRAGMA.sub("#pragma OPENCL FP_CONTRACT OFF", source))


def _reciprocal(source: str) -> str:
    head, name, rest = source.partition("static inline float fx1_div(float a, float b) ")
    return head + name + _DIVISION.sub("{ return a * (1.0f / b); }", rest, count=1)


def mutated(
    rewrite: Callable[[str], str], info: DeviceInfo, options: CompileOptions | None = None
) -> MutatedDevice:
    """The device of a card, behind a compiler that rewrites what it is given."""
    plain = opened(info, options)
    device = MutatedDevice(plain.info, plain.handle, plain.context, plain.queue, plain.cache)
    device.rewrite = rewrite  # type: ignore[method-assign]
    return device


class _Mutated(EngineServer):
    """The engine of a device whose compiler rewrites."""

    rewrite: ClassVar[Callable[[str], str]]

    def open_device(self, info: DeviceInfo, options: CompileOptions) -> Device:
        return mutated(type(self).rewrite, info, options)


class ContractingServer(_Mutated):
    """See :func:`contracting`."""

    rewrite = staticmethod(contracting)


class SplittingServer(_Mutated):
    """See :func:`splitting`."""

    rewrite = staticmethod(splitting)


class ContractingEngine(EngineProcess):
    """A process with the device of :func:`contracting`."""

    module = "tests.contracting_process"


class SplittingEngine(EngineProcess):
    """A process with the device of :func:`splitting`."""

    module = "tests.splitting_process"
