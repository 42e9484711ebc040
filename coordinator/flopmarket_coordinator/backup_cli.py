"""``flop coordinator backup`` and ``restore``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flopmarket_coordinator.places import data_folder, now_us

if TYPE_CHECKING:
    from flopmarket_coordinator.backup import Manifest

_json = click.option("--json", "as_json", is_flag=True, help="The manifest as JSON on stdout.")


@click.command()
@click.option(
    "--data-dir", type=click.Path(file_okay=False, path_type=Path), envvar="FLOPMARKET_DATA_DIR"
)
@click.argument("target", type=click.Path(path_type=Path))
@_json
def backup(data_dir: Path | None, target: Path, as_json: bool) -> None:
    """Copy database, artifacts and keys into the new folder TARGET, while the market runs.

    The copy holds the coordinator's private keys: keep it where only the operator reads.
    """
    from flopmarket_coordinator.backup import back_up
    from flopmarket_coordinator.data_dir import DataDirectory

    directory = DataDirectory.open(data_folder(data_dir))
    _show(back_up(directory, target, now_us=now_us()), as_json)
    click.echo(f"{target} is complete", err=True)


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--verify-only", is_flag=True, help="Read and compare every byte; restore nothing.")
@_json
def restore(source: Path, data_dir: Path, verify_only: bool, as_json: bool) -> None:
    """Make the empty folder --data-dir a coordinator's from the backup SOURCE.

    Every byte is compared with the manifest first. What happened after the backup is lost; do not
    let the market it was made from go on beside the restored one: they have the same key.
    """
    from flopmarket_coordinator import backup as backups

    manifest = backups.verify(source) if verify_only else backups.restore(source, data_dir)
    _show(manifest, as_json)
    done = "is whole" if verify_only else f"restored to {data_dir}; now `flop coordinator check`"
    click.echo(f"{source} {done}", err=True)


def _show(manifest: Manifest, as_json: bool) -> None:
    facts = dataclasses.asdict(manifest)
    facts["artifacts"] = len(manifest.artifacts)
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        click.echo(f"{name:<16}  {value}")
