"""``flop``: the root command. Knows the names of all commands and imports only the one that runs.

``flop worker`` and ``flop coordinator`` come from the packages that own them, through the
entry-point group ``flopmarket.cli``. Start-up time is a feature: nothing heavy is imported here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import click

ENTRY_POINT_GROUP = "flopmarket.cli"

COMMANDS: Mapping[str, tuple[str, str]] = {
    "quote": ("flopmarket.cli.buy:quote", "The price of a job before it runs."),
    "run": ("flopmarket.cli.buy:run", "Buy a job, watch it, fetch and verify its result."),
    "submit": ("flopmarket.cli.buy:submit", "Buy a job and return at once."),
    "job": ("flopmarket.cli.job:job", "Jobs: list, show, watch, wait, cancel, fetch, why, audits."),
    "prices": ("flopmarket.cli.prices:prices", "What work costs now; no key needed."),
    "receipt": ("flopmarket.cli.receipt:receipt", "Check a signed receipt offline."),
    "dispute": ("flopmarket.cli.dispute:dispute", "Replay or explain a disputed segment."),
    "canaries": ("flopmarket.cli.canaries:canaries", "How auditors are watched; no key needed."),
    "account": ("flopmarket.cli.account:account", "Account: register, balances, statement."),
    "key": ("flopmarket.cli.key:key", "Keys: new, list, grant, rotate, revoke, recover."),
    "invite": ("flopmarket.cli.invite:invite", "A token that brings a machine into the account."),
    "join": ("flopmarket.cli.invite:join", "Use a token: join an account, or open one."),
    "budget": ("flopmarket.cli.budget:budget", "Spending limits of the account and its CI keys."),
    "webhook": ("flopmarket.cli.webhook:webhook", "Signed messages about our jobs."),
    "benchmark": ("flopmarket.cli.benchmark:benchmark", "Check what a device proved, offline."),
    "bench": ("flopmarket.cli.bench:bench", "What a device here computes, and how fast."),
    "admin": ("flopmarket.cli.admin:admin", "Operate a coordinator: drain, ban, refund, trail."),
    "demo": ("flopmarket.cli.demo:demo", "The whole market on this machine, end to end."),
}
MOUNTED_HELP: Mapping[str, str] = {
    "worker": "Rent out the devices of this machine.",
    "coordinator": "Run a market of your own.",
}


class RootGroup(click.Group):
    """The root: commands by name, and the boundary at which an error becomes an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, in the order people need them."""
        return [*COMMANDS, *sorted(_mounted())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command that is asked for."""
        target = COMMANDS.get(cmd_name, ("", ""))[0]
        if not target:
            entry_point = _mounted().get(cmd_name)
            if entry_point is None:
                return None
            target = entry_point.value
        return _load(target, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the table above: nothing is imported for a help text."""
        rows = [(name, text) for name, (_, text) in COMMANDS.items()]
        rows += [(name, MOUNTED_HELP.get(name, "")) for name in sorted(_mounted())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def main(  # type: ignore[override]  # both modes of the superclass in one
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        *,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run; with ``standalone_mode`` every failure is printed and becomes the exit code."""

        def invoke() -> Any:
            return super(RootGroup, self).main(args, prog_name, standalone_mode=False, **extra)

        if not standalone_mode:
            return invoke()
        from flopmarket.cli.failures import guarded  # only here: a help text needs no errors

        return guarded(invoke)


def _mounted() -> dict[str, metadata.EntryPoint]:
    found = metadata.entry_points(group=ENTRY_POINT_GROUP)
    return {point.name: point for point in found if point.name not in COMMANDS}


def _load(target: str, name: str) -> click.Command:
    module_name, _, attribute = target.partition(":")
    try:
        command = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        from flopmarket.errors import FlopmarketError

        raise FlopmarketError(
            f"`flop {name}` cannot be loaded: {error}",
            code="COMMAND_NOT_LOADED",
            hint="the installation is incomplete",
        ) from error
    assert isinstance(command, click.Command), f"{target} is not a command"
    return command


@click.group(cls=RootGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="flopmarket", prog_name="flop")
def main() -> None:
    """Buy and sell verified floating-point work.

    A job is a tensor program: quoted before it runs, run on other people's devices, audited,
    paid, and proven by a signed receipt.

    Exit codes: 0 ok, 1 failed, 2 usage, 3 not allowed, 4 not found, 5 conflict, 6 quota or budget,
    7 unavailable, 130 interrupted.
    """


if __name__ == "__main__":
    main()
