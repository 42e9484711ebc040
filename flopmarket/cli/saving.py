"""Results as files of a folder: the state, the outputs, the signed receipt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flopmarket.cli.options import write_file
from flopmarket.client.results import Array
from flopmarket.errors import Conflict, FlopmarketError
from flopmarket.jobs import bundle

STATE_FILE = "state.safetensors"
OUTPUTS_FILE = "outputs.safetensors"
RECEIPT_FILE = "receipt.json"


def check_folder(folder: Path, *, force: bool) -> None:
    """Make the folder, and raise Conflict FILE_EXISTS before any money moves if it is in use."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FlopmarketError(f"{folder}: {error.strerror}", code="FILE_UNWRITABLE") from None
    for name in (STATE_FILE, OUTPUTS_FILE, RECEIPT_FILE):
        if (folder / name).exists() and not force:
            raise Conflict(
                f"{folder / name} exists and is not overwritten",
                code="FILE_EXISTS",
                hint="use --force, or another folder",
            )


def save_result(
    folder: Path,
    state: Mapping[str, Array],
    outputs: Mapping[str, Array],
    receipt_file: bytes,
    *,
    force: bool,
) -> dict[str, str]:
    """Write what there is; paths by name."""
    contents = {
        STATE_FILE: bundle.save(state) if state else b"",
        OUTPUTS_FILE: bundle.save(outputs) if outputs else b"",
        RECEIPT_FILE: receipt_file,
    }
    written: dict[str, str] = {}
    for name, content in contents.items():
        if content:
            write_file(folder / name, content, force=force)
            written[name] = str(folder / name)
    return written
