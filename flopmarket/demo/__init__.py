"""``flop demo``: the whole market on one machine, with every claim checked and shown."""

from __future__ import annotations


def main(arguments: list[str]) -> int:
    """Run the demonstration; returns its exit code (0 when every claim holds).

    With ``--market`` it is a market day instead of the story of one buyer, with ``--attacks`` a
    league of bots that cheat.
    """
    if "--attacks" in arguments:
        from flopmarket.demo.attacks import tell as tell_attacks

        return tell_attacks([item for item in arguments if item != "--attacks"])
    if "--market" in arguments:
        from flopmarket.demo.market_day import tell as tell_market_day

        return tell_market_day([item for item in arguments if item != "--market"])
    from flopmarket.demo.story import tell

    return tell(arguments)
