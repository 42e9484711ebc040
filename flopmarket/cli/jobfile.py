"""A JOB.py of the buyer's own: run on the buyer's machine, nowhere else, for the job it defines.

The file defines ``job`` (a TrainingJob, an InferenceJob, or a prepared one) or ``make_job()``, and
may say ``verification = "check"`` (or ``"dual"``) and ``mode = "class"`` (or ``"tolerance"``). It
is ordinary Python with its folder on the path; what leaves the machine is the traced program.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from flopmarket.client.jobs import PreparedJob, prepare
from flopmarket.errors import FlopmarketError, InvalidInput, LimitExceeded
from flopmarket.limits import MAX_JOB_FILE_BYTES
from flopmarket.trust.audit_policy import Level
from flopmarket.trust.modes import Mode

MODULE_NAME = "__flopmarket_job__"


class JobFileError(InvalidInput):
    """A JOB.py failed, or defines no job."""

    default_code = "JOB_FILE_FAILED"


@dataclass(frozen=True, slots=True)
class JobFile:
    """What a file defines; ``verification`` and ``mode`` are "" where it says nothing of them."""

    job: PreparedJob
    verification: str
    mode: str


def load_job(path: Path) -> JobFile:
    """Run the file and prepare its job; raises JobFileError naming the file and line."""
    if path.stat().st_size > MAX_JOB_FILE_BYTES:
        raise LimitExceeded(f"{path} is larger than {MAX_JOB_FILE_BYTES} bytes")
    with _folder_on_path(path):
        module = _run(path)
        make = getattr(module, "make_job", None)
        defined = getattr(module, "job", None)
        if defined is None and callable(make):
            try:
                defined = make()
            except (Exception, SystemExit) as error:
                raise _failed(path, error) from error
    if defined is None:
        raise JobFileError(
            f"{path} defines no job",
            code="JOB_FILE_EMPTY",
            hint="assign a TrainingJob or InferenceJob to `job`, or return one from `make_job()`",
        )
    prepared = prepare(defined)
    assert isinstance(prepared, PreparedJob)
    level = _word(module, path, "verification", tuple(Level))
    return JobFile(prepared, level, _word(module, path, "mode", tuple(Mode)))


def _word(module: ModuleType, path: Path, name: str, known: Sequence[str]) -> str:
    """What a file says under a name, one of the known words; "" where it says nothing."""
    said = getattr(module, name, "")
    if said not in ("", *known):
        raise JobFileError(
            f"{path}: {name} = {str(said)[:40]!r} is unknown",
            code=f"{name.upper()}_UNKNOWN",
            hint=f"one of: {', '.join(known)}",
        )
    return str(said)


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(MODULE_NAME, path.resolve())
    if spec is None or spec.loader is None:
        raise JobFileError(f"{path} is not a Python file", hint="its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE_NAME] = module  # dataclasses and pickles of the file look it up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _failed(path, error) from error
    return module


def _failed(path: Path, error: BaseException) -> FlopmarketError:
    """The error with the last line of the file that it passed through."""
    if isinstance(error, FlopmarketError):
        return error
    if isinstance(error, SyntaxError):
        return JobFileError(f"{path}:{error.lineno}: {error.msg}")
    own = str(path.resolve())
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == own]
    line = f":{frames[-1].lineno}" if frames else ""
    return JobFileError(
        f"{path}{line}: {type(error).__name__}: {error}",
        hint="FLOPMARKET_DEBUG=1 shows the traceback",
    )


@contextmanager
def _folder_on_path(path: Path) -> Iterator[None]:
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
