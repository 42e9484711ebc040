"""Arrays a user names on the command line: a folder of samples, NumPy files, single values."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flopmarket.errors import InvalidInput, LimitExceeded
from flopmarket.jobs.bundle import Array
from flopmarket.jobs.rows import Sample
from flopmarket.limits import MAX_BUNDLE_BYTES, MAX_INPUT_FILES

SUFFIXES = (".npy", ".npz")


class InputUnreadable(InvalidInput):
    """A file of inputs is not there, or is no NumPy file."""

    default_code = "INPUT_UNREADABLE"


def read_samples(texts: Sequence[str], names: Sequence[str]) -> Iterator[Sample]:
    """What ``--input`` names, for a model whose inputs have these names.

    ``DIR``: one .npy or .npz a sample, in the order of their names. ``FILE.npz``: arrays by input.
    ``FILE.npy``: the array of a model's only input. ``name=FILE.npy``: of this input; several of
    these are read together. Raises :class:`InputUnreadable` or LimitExceeded.
    """
    named = [text for text in texts if _named(text, names)]
    if named and len(named) < len(texts):
        raise InputUnreadable(
            "either every --input is NAME=FILE.npy or none is", code="INPUT_AMBIGUOUS"
        )
    if named:
        parts = [text.partition("=") for text in named]
        arrays = {name: _only_array(Path(path)) for name, _, path in parts}
        if len(arrays) < len(named):
            raise InputUnreadable("an input is named twice", code="INPUT_AMBIGUOUS")
        yield Sample("--input", arrays)
        return
    files = [file for text in texts for file in _files(Path(text), names)]
    _check_size(files)
    for path in files:
        yield Sample(str(path), _by_name(_load(path), names, path))


def read_constants(texts: Iterable[str], names: Collection[str]) -> dict[str, Any]:
    """``--set NAME=VALUE``: numbers (``16000``, ``1,2,3``), true, false, or a .npy file."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in names:
            raise InvalidInput(
                f"--set {text[:80]!r} is not NAME=VALUE for an input of the model",
                code="SET_MALFORMED",
                hint=f"inputs: {', '.join(names)}",
            )
        found[name] = _only_array(Path(value)) if value.endswith(".npy") else _value(name, value)
    return found


def read_shapes(texts: Iterable[str]) -> dict[str, list[int]]:
    """``--shape NAME=3,224,224``: the shape of one row."""
    found: dict[str, list[int]] = {}
    for text in texts:
        name, _, numbers = text.partition("=")
        try:
            found[name] = [int(number) for number in numbers.split(",") if number]
        except ValueError:
            found[name] = [-1]
        if not name or min(found[name], default=0) < 0:
            raise InvalidInput(
                f"--shape {text[:80]!r} is not NAME=3,224,224", code="SHAPE_MALFORMED"
            )
    return found


def _named(text: str, names: Sequence[str]) -> bool:
    name, equals, _ = text.partition("=")
    return bool(equals) and name in names


def _files(path: Path, names: Sequence[str]) -> list[Path]:
    if path.is_dir():
        files = sorted(item for item in path.iterdir() if item.suffix in SUFFIXES)
        if not files:
            raise InputUnreadable(f"{path} holds no .npy or .npz file")
        if len(files) > MAX_INPUT_FILES:
            raise LimitExceeded(f"{path} holds {len(files)} samples, at most {MAX_INPUT_FILES}")
        return files
    if path.suffix not in SUFFIXES:
        raise InputUnreadable(
            f"--input {path} is no folder, .npz or .npy file",
            hint=f"or NAME=FILE.npy for an input of the model: {', '.join(names)}",
        )
    return [path]


def _check_size(files: Sequence[Path]) -> None:
    size_bytes = sum(path.stat().st_size for path in files if path.exists())
    if size_bytes > MAX_BUNDLE_BYTES:
        raise LimitExceeded(
            f"the inputs have {size_bytes} bytes, at most {MAX_BUNDLE_BYTES} fit one job",
            hint="split them over several jobs",
        )


def _by_name(loaded: Array | dict[str, Array], names: Sequence[str], path: Path) -> dict[str, Any]:
    """Arrays by input; a file of one array is that of a model's only input."""
    if isinstance(loaded, dict) and (len(names) != 1 or len(loaded) != 1 or names[0] in loaded):
        return loaded
    if len(names) != 1:
        raise InputUnreadable(
            f"{path} holds one array, the model has {len(names)} inputs: {', '.join(names)}",
            hint="use .npz files with arrays by input, or --input NAME=FILE.npy for each",
        )
    return {names[0]: next(iter(loaded.values())) if isinstance(loaded, dict) else loaded}


def _only_array(path: Path) -> Array:
    loaded = _load(path)
    if isinstance(loaded, dict):
        raise InputUnreadable(f"{path} holds several arrays, one is wanted", hint="use a .npy file")
    return loaded


def _load(path: Path) -> Array | dict[str, Array]:
    """An array, or arrays by name. Pickles are refused: a file of data runs no code."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (AttributeError, TypeError):  # a single array is no context manager
        pass
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from None
    try:
        found: Array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(path, error) from None
    return found


def _unreadable(path: Path, error: Exception) -> InputUnreadable:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return InputUnreadable(f"{path}: {reason.splitlines()[0] if reason else 'not a NumPy file'}")


def _value(name: str, text: str) -> Any:
    words: Mapping[str, bool] = {"true": True, "false": False}
    if text in words:
        return words[text]
    try:
        numbers = [float(part) if "." in part or "e" in part else int(part)
                   for part in text.split(",")]  # fmt: skip
    except ValueError:
        raise InvalidInput(
            f"--set {name}={text[:80]} is no number, list of numbers, true, false or .npy file",
            code="SET_MALFORMED",
        ) from None
    return numbers if "," in text else numbers[0]
