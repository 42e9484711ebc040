"""From an error to one line on stderr and an exit code; no other module does that.

``FLOPMARKET_DEBUG`` set to anything prints the traceback too.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import click

from flopmarket.errors import EXIT_CODES, FlopmarketError, Kind

DEBUG_VARIABLE = "FLOPMARKET_DEBUG"
EXIT_INTERRUPTED = 130


def guarded(invoke: Callable[[], Any]) -> NoReturn:
    """Run a command and exit: 0, or the code of what it raised."""
    code = EXIT_CODES[Kind.INTERNAL]
    try:
        result = invoke()
        code = result if isinstance(result, int) else 0
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except BrokenPipeError:
        # Who read our output is gone; Python must not complain again while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = EXIT_CODES[Kind.INTERNAL]
    except Exception as error:  # the boundary: everything else is a line and a code
        code = report(error)
    sys.exit(code)


def report(error: Exception) -> int:
    """Print ``error`` for a person; its exit code."""
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error, file=sys.stderr)
    message, code_name, hint, exit_code = _described(error)
    click.echo(f"error: {message} [{code_name}]", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    return exit_code


def _described(error: Exception) -> tuple[str, str, str, int]:
    """Message, code, hint, exit code."""
    if isinstance(error, FlopmarketError):
        return error.message, str(error.code), error.hint, error.exit_code
    # An engine error cannot have been raised if the engine was never imported.
    engine_errors = sys.modules.get("flopmarket.engine.errors")
    if engine_errors is not None and isinstance(error, engine_errors.EngineError):
        kind = Kind.UNAVAILABLE if error.retryable else Kind.INVALID
        return error.message, error.code, error.hint, EXIT_CODES[kind]
    return (
        f"{type(error).__name__}: {error}",
        "INTERNAL",
        f"this is a fault of flop itself; {DEBUG_VARIABLE}=1 shows where",
        EXIT_CODES[Kind.INTERNAL],
    )
