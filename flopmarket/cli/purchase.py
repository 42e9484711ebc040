"""What `flop quote`, `submit` and `run` are asked to buy: a JOB.py, or a MODEL.onnx with inputs.

:func:`purchase_options` gives a command one keyword, ``purchase``; only :meth:`Purchase.load`
imports an engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flopmarket.cli.mode_options import DEFAULT_MODE

if TYPE_CHECKING:
    from flopmarket.client.artifacts import Upload
    from flopmarket.client.jobs import PreparedJob
    from flopmarket.engine.formats.onnx import Model
    from flopmarket.jobs.form import JobForm

Function = TypeVar("Function", bound=Callable[..., Any])

MODEL_SUFFIX = ".onnx"
LEVELS = ("deter", "check", "dual")
"""As :class:`flopmarket.trust.audit_policy.Level`, which is not loaded for ``--help``."""
DEFAULT_LEVEL = LEVELS[0]

_OPTIONS = (
    click.argument(
        "job_file",
        metavar="JOB.py|MODEL.onnx",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
    ),
    click.option(
        "--input",
        "inputs",
        metavar="DIR|FILE|NAME=FILE.npy",
        multiple=True,
        help="Rows for the model: a folder of .npy/.npz samples, one file, or one file an input.",
    ),
    click.option(
        "--batch", type=click.IntRange(min=1), help="Rows of one step; 32 where the model is open."
    ),
    click.option(
        "--set",
        "constants",
        metavar="NAME=VALUE",
        multiple=True,
        help="Make a constant of an input: numbers, true, false or FILE.npy.",
    ),
    click.option("--cast", is_flag=True, help="Convert inputs to the model's number types."),
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A job that is ready to be sold; ``model`` is None for a JOB.py.

    ``verification`` and ``wanted_mode`` are what a JOB.py asks for, "" where it says nothing.
    """

    prepared: PreparedJob
    model: Model | None
    verification: str = ""
    wanted_mode: str = ""

    def mode(self, asked: str | None) -> str:
        """The mode to buy: of the command line, else of the file, else exact."""
        return asked or self.wanted_mode or DEFAULT_MODE

    def level(self, asked: str | None) -> str:
        """The level to buy: of the command line, else of the file, else the cheapest."""
        return asked or self.verification or DEFAULT_LEVEL


@dataclass(frozen=True, slots=True)
class Purchase:
    """What was named on the command line."""

    path: Path
    inputs: tuple[str, ...]
    batch: int | None
    constants: tuple[str, ...]
    cast: bool

    @property
    def is_model(self) -> bool:
        """Whether it is a model file; everything else is a JOB.py."""
        return self.path.suffix == MODEL_SUFFIX

    def load(self) -> Loaded:
        """Read, check and trace; nothing leaves this machine."""
        if not self.is_model:
            if self.inputs or self.constants or self.batch or self.cast:
                raise click.UsageError(
                    "--input, --batch, --set and --cast are for a MODEL.onnx; a JOB.py has its own"
                )
            from flopmarket.cli.jobfile import load_job

            found = load_job(self.path)
            return Loaded(found.job, None, found.verification, found.mode)
        if not self.inputs:
            raise click.UsageError(f"{self.path} needs rows: name them with --input")
        from flopmarket.cli.inputs import read_samples
        from flopmarket.jobs.models import model_job, model_rows

        model = self.model()
        names = [spec.name for spec in model.inputs]
        rows = model_rows(model, read_samples(self.inputs, names), cast=self.cast)
        job = model_job(model, rows, batch=self.batch, title=self.path.name)
        return Loaded(job.prepare(), model)

    def form(self, rows: int, shapes: tuple[str, ...]) -> JobForm:
        """The form of a job on so many rows that do not exist yet."""
        from flopmarket.cli.inputs import read_shapes
        from flopmarket.jobs.models import model_form

        return model_form(self.model(), rows, batch=self.batch, shapes=read_shapes(shapes))

    def model(self) -> Model:
        """The model, with the constants of the command line."""
        from flopmarket.cli.inputs import read_constants
        from flopmarket.engine.formats.onnx import load

        plain = load(self.path)
        if not self.constants:
            return plain
        names = [spec.name for spec in plain.inputs]
        return load(self.path, values=read_constants(self.constants, names))


def purchase_options(function: Function) -> Function:
    """Add the options that say what to buy; the command gets ``purchase``."""

    @wraps(function)
    def command(
        *,
        job_file: Path,
        inputs: tuple[str, ...],
        batch: int | None,
        constants: tuple[str, ...],
        cast: bool,
        **rest: Any,
    ) -> Any:
        return function(purchase=Purchase(job_file, inputs, batch, constants, cast), **rest)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command  # type: ignore[return-value]


def upload_line(upload: Upload) -> str:
    """One file of a job for people: how large, and whether it must be sent."""
    from flopmarket.cli.output import size

    state = "already there" if upload.already_there else "uploading"
    return f"{upload.name}: {size(upload.size_bytes)}, {state}"
