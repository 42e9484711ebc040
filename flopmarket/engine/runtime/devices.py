"""Which OpenCL devices this machine has, as plain values ("device cards").

``discover`` looks at every platform and ``find`` resolves what a user typed. The worker's offer,
the kernel cache and the tuner read the cards; :func:`flopmarket.engine.runtime.opencl.open_device`
turns one into something that computes. One board that is visible through two drivers is one device
here: the better driver wins. Nothing in this module compiles or runs a kernel.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyopencl as cl

from flopmarket.engine.errors import EngineError

_PCI_BUS_INFO_KHR = 0x410F  # cl_khr_pci_bus_info: uint32 domain, bus, device, function
_DEVICE_UUID_KHR = 0x106A  # cl_khr_device_uuid: 16 bytes
_SYSFS_PCI = Path("/sys/bus/pci/devices")

# Substring of the platform's name -> what people call that driver. The first match wins.
_FAMILIES = (
    ("portable computing language", "PoCL"),
    ("rusticl", "rusticl"),
    ("amd accelerated parallel processing", "ROCm"),
    ("nvidia cuda", "NVIDIA"),
    ("intel", "Intel"),
    ("clover", "Clover"),
    ("apple", "Apple"),
)
# Of two drivers for one board the lower rank is kept: ROCm reaches the matrix units.
_DRIVER_RANK = {"ROCm": 0, "rusticl": 1, "PoCL": 3}
_OTHER_DRIVER_RANK = 2

_FLOAT_FLAGS = (
    (1 << 0, "denorm"),
    (1 << 1, "inf_nan"),
    (1 << 2, "round_to_nearest"),
    (1 << 3, "round_to_zero"),
    (1 << 4, "round_to_inf"),
    (1 << 5, "fma"),
    (1 << 6, "soft_float"),
    (1 << 7, "correctly_rounded_divide_sqrt"),
)


class DeviceKind(StrEnum):
    """What sort of processor a device says it is."""

    CPU = "cpu"
    GPU = "gpu"
    ACCELERATOR = "accelerator"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """The card of one device: what its driver reports, and a stable identity.

    ``float_flags`` is CL_DEVICE_SINGLE_FP_CONFIG in words. It informs and never decides: whether a
    device may offer exact mode is found out by probes (docs/numerics.md §4).
    """

    device_id: str
    """64 hex digits: sha256 of the board (UUID, else PCI address, else name and index) and salt."""
    index_name: str
    """Driver family and position, ``"PoCL:0"``: what ``find`` takes and what tables show."""
    name: str
    vendor: str
    platform: str
    platform_version: str
    driver_version: str
    opencl_version: str
    opencl_c_version: str
    kind: DeviceKind
    compute_units: int
    clock_mhz: int
    global_memory_bytes: int
    max_allocation_bytes: int
    base_alignment_bytes: int
    """Offsets of sub-range views must be multiples of this (CL_DEVICE_MEM_BASE_ADDR_ALIGN)."""
    native_vector_width_float: int
    local_memory_bytes: int
    max_work_group_size: int
    has_fp64: bool
    float_flags: tuple[str, ...]
    pci_address: str | None
    """``"0000:03:00.0"``, or None where the driver does not say (every CPU)."""
    uuid: str | None
    position: tuple[int, int]
    """(platform, device) in OpenCL's own enumeration of this process."""

    @property
    def family(self) -> str:
        """The driver family: the part of ``index_name`` before the colon."""
        return self.index_name.partition(":")[0]


def discover(*, salt: str = "", platforms: Sequence[Any] | None = None) -> list[DeviceInfo]:
    """Cards of all devices of this machine, each board once; empty when there is no OpenCL driver.

    ``salt`` is mixed into every ``device_id``. Boards without a UUID are told apart by name and
    index only, so an installation that offers a CPU passes something of its own (its installation
    id), and several CPU workers on one machine pass different salts. ``platforms`` replaces
    OpenCL's own list (objects shaped like ``pyopencl.Platform``).
    """
    if platforms is None:
        try:
            platforms = cl.get_platforms()
        except cl.Error:  # the loader's way to say "no driver installed"
            return []
    cards: list[DeviceInfo] = []
    counts: dict[str, int] = {}
    for platform_index, platform in enumerate(platforms):
        family = _family(platform.name)
        try:
            devices = platform.get_devices()
        except cl.Error:  # a driver without a device is a driver that has nothing to offer
            continue
        for device_index, device in enumerate(devices):
            index = counts.get(family, 0)
            counts[family] = index + 1
            try:
                card = _card(platform, device, f"{family}:{index}", (platform_index, device_index))
            except cl.Error:  # a device that cannot describe itself cannot be offered
                continue
            cards.append(replace(card, device_id=_device_id(card, index, salt)))
    return one_per_board(cards)


def one_per_board(cards: Iterable[DeviceInfo]) -> list[DeviceInfo]:
    """Keep one card per PCI address, the preferred driver's; cards without an address all stay."""
    best: dict[str, DeviceInfo] = {}
    ordered = list(cards)
    for card in ordered:
        if card.pci_address is None:
            continue
        held = best.get(card.pci_address)
        if held is None or _driver_rank(card) < _driver_rank(held):
            best[card.pci_address] = card
    return [card for card in ordered if card.pci_address is None or best[card.pci_address] is card]


def find(spec: str | None = None, *, devices: Sequence[DeviceInfo] | None = None) -> DeviceInfo:
    """The device that ``spec`` names: ``"PoCL:0"``, ``"0"``, a device id, or part of a name.

    ``None`` picks the first GPU, else the first accelerator, else the first device. Raises
    :class:`EngineError` with code ``DEVICE_NONE`` (no driver at all), ``DEVICE_UNKNOWN`` or
    ``DEVICE_AMBIGUOUS``; the message lists what exists.
    """
    cards = list(discover() if devices is None else devices)
    if not cards:
        raise EngineError(
            "this machine has no OpenCL device",
            code="DEVICE_NONE",
            hint="install a driver, or the CPU one from PyPI: pip install 'pyopencl[pocl]'",
        )
    if spec is None:
        order = (DeviceKind.GPU, DeviceKind.ACCELERATOR, DeviceKind.CPU, DeviceKind.OTHER)
        return min(cards, key=lambda card: order.index(card.kind))
    wanted = spec.strip().lower()
    listing = ", ".join(f"{card.index_name} ({card.name})" for card in cards)
    exact = [card for card in cards if wanted in (card.index_name.lower(), card.device_id)]
    if not exact and wanted.isdecimal():
        if int(wanted) >= len(cards):
            raise EngineError(
                f"there is no device number {wanted}; this machine has {listing}",
                code="DEVICE_UNKNOWN",
            )
        exact = [cards[int(wanted)]]
    found = exact or [card for card in cards if wanted and wanted in card.name.lower()]
    if not found:
        raise EngineError(
            f"no device matches {spec!r}; this machine has {listing}", code="DEVICE_UNKNOWN"
        )
    if len(found) > 1:
        names = ", ".join(card.index_name for card in found)
        raise EngineError(
            f"{spec!r} matches {len(found)} devices: {names}",
            code="DEVICE_AMBIGUOUS",
            hint="name one of them by its index name",
        )
    return found[0]


def _family(platform_name: str) -> str:
    lowered = platform_name.lower()
    for needle, family in _FAMILIES:
        if needle in lowered:
            return family
    return platform_name.strip().replace(" ", "-").replace(":", "-") or "unknown"


def _driver_rank(card: DeviceInfo) -> int:
    return _DRIVER_RANK.get(card.family, _OTHER_DRIVER_RANK)


def _card(platform: Any, device: Any, index_name: str, position: tuple[int, int]) -> DeviceInfo:
    pci_address = _pci_address(device)
    return DeviceInfo(
        device_id="",
        index_name=index_name,
        name=_name(device),
        vendor=str(device.vendor).strip(),
        platform=str(platform.name).strip(),
        platform_version=str(platform.version).strip(),
        driver_version=str(device.driver_version).strip(),
        opencl_version=str(device.version).strip(),
        opencl_c_version=str(device.opencl_c_version).strip(),
        kind=_kind(int(device.type)),
        compute_units=int(device.max_compute_units),
        clock_mhz=int(device.max_clock_frequency),
        global_memory_bytes=int(device.global_mem_size),
        max_allocation_bytes=int(device.max_mem_alloc_size),
        base_alignment_bytes=max(1, int(device.mem_base_addr_align) // 8),
        native_vector_width_float=max(1, int(device.native_vector_width_float)),
        local_memory_bytes=int(device.local_mem_size),
        max_work_group_size=int(device.max_work_group_size),
        has_fp64="cl_khr_fp64" in str(device.extensions).split(),
        float_flags=tuple(word for bit, word in _FLOAT_FLAGS if int(device.single_fp_config) & bit),
        pci_address=pci_address,
        uuid=_uuid(device, pci_address),
        position=position,
    )


def _name(device: Any) -> str:
    """The marketing name where AMD's driver has one (its ``name`` is a bare ``gfx1100``)."""
    if "cl_amd_device_attribute_query" in str(device.extensions).split():
        try:
            return str(device.board_name_amd).strip() or str(device.name).strip()
        except (cl.Error, AttributeError):
            pass
    return str(device.name).strip()


def _kind(type_bits: int) -> DeviceKind:
    if type_bits & cl.device_type.GPU:
        return DeviceKind.GPU
    if type_bits & cl.device_type.CPU:
        return DeviceKind.CPU
    if type_bits & cl.device_type.ACCELERATOR:
        return DeviceKind.ACCELERATOR
    return DeviceKind.OTHER


def _device_id(card: DeviceInfo, index: int, salt: str) -> str:
    if card.uuid is not None:
        board = ("uuid", card.uuid)
    elif card.pci_address is not None:
        # The driver's family stays out: switching from rusticl to ROCm is not another board.
        board = ("pci", card.pci_address)
    else:
        board = ("name", f"{card.family}/{card.name}/{index}")
    fields = ("flopmarket device", *board, salt)
    return hashlib.sha256("\0".join(fields).encode()).hexdigest()


def _pci_address(device: Any) -> str | None:
    """PCI address from whichever query the driver answers: Khronos, NVIDIA's, AMD's."""
    raw = _raw_info(device, _PCI_BUS_INFO_KHR, 16, "cl_khr_pci_bus_info")
    if raw is not None:
        domain, bus, slot, function = (
            int.from_bytes(raw[i : i + 4], "little") for i in (0, 4, 8, 12)
        )
        return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"
    extensions = str(device.extensions).split()
    if "cl_nv_device_attribute_query" in extensions:
        try:
            bus, slot = int(device.pci_bus_id_nv), int(device.pci_slot_id_nv)
            domain = int(getattr(device, "pci_domain_id_nv", 0))
        except (cl.Error, AttributeError):
            return None
        return f"{domain:04x}:{bus:02x}:{slot >> 3:02x}.{slot & 7:x}"
    if "cl_amd_device_attribute_query" in extensions:
        try:
            topology = device.topology_amd
            return f"0000:{topology.bus:02x}:{topology.device:02x}.{topology.function:x}"
        except (cl.Error, AttributeError):
            return None
    return None


def _uuid(device: Any, pci_address: str | None) -> str | None:
    """The board's own number: amdgpu's ``unique_id``, or the UUID that the driver reports."""
    if pci_address is not None:
        try:
            return "amdgpu-" + (_SYSFS_PCI / pci_address / "unique_id").read_text().strip()
        except OSError:
            pass
    # A UUID without a PCI address is a software device's constant: it tells no two machines apart.
    raw = _raw_info(device, _DEVICE_UUID_KHR, 16, "cl_khr_device_uuid")
    if pci_address is None or raw is None or not any(raw):
        return None
    return raw.hex()


def _raw_info(device: Any, parameter: int, size_bytes: int, extension: str) -> bytes | None:
    """``clGetDeviceInfo`` for a parameter that pyopencl has no name for, or None."""
    if extension not in str(device.extensions).split() or not hasattr(device, "int_ptr"):
        return None
    # pyopencl's own extension module is linked to the loader that made ``device``.
    query = ctypes.CDLL(str(cl._cl.__file__)).clGetDeviceInfo
    query.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_size_t,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    query.restype = ctypes.c_int32
    room = ctypes.create_string_buffer(size_bytes)
    if query(device.int_ptr, parameter, size_bytes, room, None) != 0:
        return None
    return room.raw
