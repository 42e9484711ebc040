"""``flop demo``: the whole market on one machine, with every claim checked and shown."""

from __future__ import annotations


def main(arguments: list[str]) -> int:
    """Run the demonstration; returns its exit code (0 when every claim holds)."""
    from flopmarket.demo.story import tell

    return tell(arguments)
