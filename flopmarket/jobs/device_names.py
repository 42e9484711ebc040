"""How a device and its driver are named wherever they stand in signed documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LABEL_CHARACTERS = 120  # of a driver's own texts; a label holds 256 bytes of UTF-8


def card_texts(info: Mapping[str, Any]) -> tuple[str, str]:
    """Name and driver of a device, from an engine's ``device_info``."""
    name = str(info.get("name", "device"))
    driver = f"{info.get('platform', '')} {info.get('driver_version', '')}".strip()
    return name[:_LABEL_CHARACTERS], driver[:_LABEL_CHARACTERS]
