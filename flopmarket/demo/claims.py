"""Claims and the values that were checked for them: what the demonstration ends with."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence, what was looked at, and whether it holds."""

    text: str
    value: str
    holds: bool


@dataclass(slots=True)
class Claims:
    """The table, in the order in which things were checked."""

    rows: list[Claim] = field(default_factory=list)

    def check(self, text: str, value: object, holds: bool) -> None:
        """Add a claim."""
        self.rows.append(Claim(text, str(value), bool(holds)))

    @property
    def all_hold(self) -> bool:
        """Whether there are claims and none of them fails."""
        return bool(self.rows) and all(row.holds for row in self.rows)


def print_claims(console: Console, claims: Claims, seconds: float) -> None:
    """The table, at the end."""
    table = Table("claim", "checked value", "holds", title=f"\nClaims, after {seconds:.0f} s")
    for row in claims.rows:
        table.add_row(row.text, row.value, "[green]yes[/]" if row.holds else "[bold red]NO[/]")
    console.print(table)
