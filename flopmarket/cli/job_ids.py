"""How commands name a job: a whole id, or the beginning of one of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from flopmarket.client.client import Client

SHORT_ID = 12
MIN_PREFIX = 4

job_id_argument = click.argument("job_id", metavar="JOB")


def resolve(client: Client, text: str) -> str:
    """A whole job id for an id or its beginning."""
    from flopmarket.errors import InvalidInput, NotFound

    if len(text) >= 64 or len(text) < MIN_PREFIX or set(text) - set("0123456789abcdef"):
        return text  # the client says what is wrong with it, if anything
    found = [known.job_id for known in client.jobs() if known.job_id.startswith(text)]
    if not found:
        raise NotFound(f"no job of ours begins with {text}", code="JOB_NOT_FOUND")
    if len(found) > 1:
        raise InvalidInput(f"{len(found)} jobs begin with {text}", code="JOB_ID_AMBIGUOUS")
    return found[0]
