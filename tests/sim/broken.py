"""A law that does not hold."""

from __future__ import annotations


class Broken(AssertionError):
    """Which law, and where."""

    def __init__(self, law: str, text: str) -> None:
        super().__init__(f"{law}: {text}")
        self.law = law
        self.text = text
