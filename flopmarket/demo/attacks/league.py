"""The table at the end: who tried what, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rich.console import Console
from rich.table import Table


class End(StrEnum):
    """How an attack ends. Anything that is none of these is a defect of the market."""

    CAUGHT = "caught"
    """Seen by an audit or a check, with a reason code; the bot pays."""
    REFUSED = "refused"
    """Never got in: an error with a code."""
    LOSES = "loses money"
    """Sometimes gets through and loses on average, with 99 % confidence."""
    NO_EFFECT = "no effect"
    """Done, and the result has the bits it has without it."""
    NON_GOAL = "non-goal"
    """Not prevented and said so, with the probability that it is seen."""


@dataclass(frozen=True, slots=True)
class Result:
    """One bot. ``threats`` are numbers of the table in docs/threats.md."""

    bot: str
    threats: tuple[int, ...]
    tried: str
    end: End
    evidence: str
    holds: bool


class League:
    """Results as they come; each is also told at once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.results: list[Result] = []

    def add(
        self, bot: str, threats: tuple[int, ...], tried: str, end: End, evidence: str, holds: bool
    ) -> None:
        """Note what became of a bot; ``holds`` is False when it was not what ``end`` says."""
        self.results.append(Result(bot, threats, tried, end, evidence, holds))
        style = "" if holds else "bold red"
        self._console.print(f"  {bot}: {end}, {evidence}", style=style)

    @property
    def all_hold(self) -> bool:
        """Whether there are results and every one is as documented."""
        return bool(self.results) and all(result.holds for result in self.results)

    def show(self, seconds: float) -> None:
        """The whole table."""
        table = Table(
            "bot", "threat", "what it tried", "end", "evidence", "as documented",
            title=f"\nAttacks, after {seconds:.0f} s",
        )  # fmt: skip
        for result in self.results:
            table.add_row(
                result.bot,
                ", ".join(map(str, result.threats)),
                result.tried,
                result.end,
                result.evidence,
                "[green]yes[/]" if result.holds else "[bold red]NO[/]",
            )
        self._console.print(table)
