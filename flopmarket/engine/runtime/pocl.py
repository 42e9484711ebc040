"""Make PoCL compile for processors that are newer than its LLVM.

The PoCL of PyPI asks LLVM 14 for the processor's name. For anything newer (Zen 4, Zen 5) the answer
is ``generic``, which clang then refuses as a target: every build fails with "unknown target CPU
'generic'" (PoCL issue 1049; the variable that would override it came later). The name is a string
pointer in PoCL's device structure, right behind the target triple, so we point it at the newest
processor that has no instruction the host lacks. This also lets such hosts use AVX-512.

:mod:`flopmarket.engine.runtime.opencl` calls ``repair`` before it makes a context; every other
driver is left alone. Which instructions are chosen never changes results in exact mode: admission
probes decide that, as everywhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import struct
from pathlib import Path
from typing import Any

from flopmarket.engine.runtime.devices import DeviceInfo

_STRUCTURE_BYTES = 2048  # the pair lies near byte 640 in PoCL 3.0
_WORD = struct.Struct("<Q")
_UNKNOWN = b"generic"
_UNKNOWN_VERSION = re.compile(r"-x86_64-[\w-]+-generic$")

# Best first: the name LLVM 14 knows, and the flags of /proc/cpuinfo it needs.
_TARGETS = (
    (b"skylake-avx512", "avx512f avx512bw avx512cd avx512dq avx512vl adx clwb clflushopt bmi2 fma"),
    (b"haswell", "avx2 fma f16c bmi1 bmi2 movbe abm"),
    (b"sandybridge", "avx popcnt pclmulqdq"),
    (b"x86-64", ""),
)
# PoCL keeps the pointer for the life of the process, and so must we keep what it points to.
_IMMORTAL = {name: ctypes.create_string_buffer(name) for name, _ in _TARGETS}


def needs_repair(info: DeviceInfo) -> bool:
    """Whether this card is a PoCL that does not know its x86 processor."""
    return (
        info.family == "PoCL"
        and _UNKNOWN_VERSION.search(info.opencl_version) is not None
        and platform.machine() == "x86_64"
    )


def target_name(info: DeviceInfo, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The target to compile for, or an empty string where PoCL decides itself."""
    if not needs_repair(info):
        return ""
    flags: set[str] = set()
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("flags"):
                flags = set(line.partition(":")[2].split())
                break
    return next(name for name, needed in _TARGETS if flags.issuperset(needed.split())).decode()


def repair(info: DeviceInfo, handle: Any) -> bool:
    """Give PoCL the processor's name if it has none. Returns whether anything was changed."""
    target = target_name(info)
    if not target:
        return False
    base = int(handle.int_ptr)
    # Through /proc/self/mem a word that is no pointer is an error code, not a crash.
    try:
        memory = os.open("/proc/self/mem", os.O_RDONLY)
    except OSError:
        return False
    try:
        structure = os.pread(memory, _STRUCTURE_BYTES, base)
        before = b""
        for offset in range(0, len(structure) - _WORD.size + 1, _WORD.size):
            text = _text_at(memory, _WORD.unpack_from(structure, offset)[0])
            if text == _UNKNOWN and before.startswith(b"x86_64-"):
                name = _IMMORTAL[target.encode()]
                ctypes.c_uint64.from_address(base + offset).value = ctypes.addressof(name)
                return True
            before = text
    finally:
        os.close(memory)
    return False


def _text_at(memory: int, address: int) -> bytes:
    """The C string (at most 63 characters) at an address that may be no address at all."""
    if not 4096 <= address < 1 << 47:
        return b""
    try:
        return os.pread(memory, 64, address).split(b"\0")[0]
    except OSError:
        return b""
