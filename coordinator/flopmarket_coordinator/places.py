"""Where the commands of a coordinator find its folder, and what time it is."""

from __future__ import annotations

import time
from pathlib import Path


def data_folder(chosen: Path | None) -> Path:
    """The folder that was named, or the user's."""
    import platformdirs  # only here: a help text needs no folder

    return chosen or platformdirs.user_data_path("flopmarket") / "coordinator"


def now_us() -> int:
    """Microseconds since the Unix epoch."""
    return time.time_ns() // 1_000
