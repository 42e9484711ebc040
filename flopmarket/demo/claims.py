"""Claims and the values that were checked for them: what the demonstration ends with."""

from __future__ import annotations

from dataclasses import dataclass, field


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
