"""Results as files: state, outputs and signed receipt in a folder, or a model's outputs as .npz.

A destination is checked before any money moves.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from flopmarket.cli.options import write_file
from flopmarket.cli.output import Output
from flopmarket.client.results import Array
from flopmarket.errors import Conflict, FlopmarketError, InvalidInput
from flopmarket.jobs import bundle

if TYPE_CHECKING:
    from flopmarket.engine.formats.onnx import Model
    from flopmarket.jobs.spec import DataOrder

STATE_FILE = "state.safetensors"
OUTPUTS_FILE = "outputs.safetensors"
RECEIPT_FILE = "receipt.json"
RESULTS_FILE = Path("results.npz")
RECEIPT_SUFFIX = ".receipt.json"

_EPOCH = (1980, 1, 1, 0, 0, 0)  # of every member of a .npz: equal results are equal files


class Results(Protocol):
    """What is saved of a job from here or from the market."""

    @property
    def state(self) -> Mapping[str, Array]:
        """The final state."""

    @property
    def outputs(self) -> Mapping[str, Array]:
        """Outputs, stacked over all steps."""

    @property
    def order(self) -> DataOrder:
        """How rows became steps."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where results go: a folder, a .npz file, or nowhere (None)."""

    path: Path | None
    is_file: bool
    force: bool

    def save(
        self, result: Results, model: Model | None, receipt_file: bytes, out: Output
    ) -> dict[str, str]:
        """Write what there is; paths by name. Without a receipt (b"") none is written."""
        if self.path is None:
            return {}
        if not self.is_file:
            return save_result(
                self.path, result.state, result.outputs, receipt_file, force=self.force
            )
        outputs, unbatched = _rows(result, model)
        for name in unbatched:
            out.say(f"output {name!r} has no batch axis: its first axis is the steps of the job")
        write_file(self.path, npz_bytes(outputs), force=self.force)
        written = {"results": str(self.path)}
        if receipt_file:
            receipt_path = _receipt_path(self.path)
            write_file(receipt_path, receipt_file, force=self.force)
            written["receipt"] = str(receipt_path)
        return written


def destination(target: Path | None, *, is_model: bool, force: bool) -> Destination:
    """Where the results of a job go; raises Conflict FILE_EXISTS or FILE_UNWRITABLE now.

    A model's outputs go to a .npz file, ``results.npz`` unless named; those of a JOB.py to a
    folder, or nowhere.
    """
    if not is_model:
        if target is not None:
            check_folder(target, force=force)
        return Destination(target, False, force)
    path = target or RESULTS_FILE
    if path.suffix != ".npz" or path.is_dir():
        raise InvalidInput(
            f"a model's outputs go to a .npz file, not to {path}",
            code="OUT_NOT_NPZ",
            hint="such as --out results.npz",
        )
    if not path.parent.is_dir():
        raise InvalidInput(f"there is no folder {path.parent}", code="FILE_UNWRITABLE")
    for file in (path, _receipt_path(path)):
        _check_absent(file, force=force)
    return Destination(path, True, force)


def npz_bytes(arrays: Mapping[str, Array]) -> bytes:
    """A .npz file with these arrays; equal arrays give equal bytes. bfloat16 becomes float32."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            known = array if array.dtype.kind in "biuf" else array.astype(np.float32)
            member = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(known), allow_pickle=False)
    return buffer.getvalue()


def _rows(result: Results, model: Model | None) -> tuple[Mapping[str, Array], list[str]]:
    from flopmarket.jobs.models import model_outputs, rows_of_all

    if model is not None:
        return model_outputs(model, result)
    return rows_of_all(result)


def _receipt_path(path: Path) -> Path:
    return path.with_name(path.stem + RECEIPT_SUFFIX)


def _check_absent(path: Path, *, force: bool) -> None:
    if path.exists() and not force:
        raise Conflict(
            f"{path} exists and is not overwritten",
            code="FILE_EXISTS",
            hint="use --force, or another place",
        )


def check_folder(folder: Path, *, force: bool) -> None:
    """Make the folder, and raise Conflict FILE_EXISTS before any money moves if it is in use."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FlopmarketError(f"{folder}: {error.strerror}", code="FILE_UNWRITABLE") from None
    for name in (STATE_FILE, OUTPUTS_FILE, RECEIPT_FILE):
        _check_absent(folder / name, force=force)


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
