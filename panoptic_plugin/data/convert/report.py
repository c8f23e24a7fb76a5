"""What a conversion read, wrote and lost, for the person who ran it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Report:
    """Lines about one conversion.

    Attributes:
        read, written: what came in and where it went.
        lost: what the new format or a stated rule could not keep, with how often.
        notes: rules that were applied.
    """

    read: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def lose(self, what: str, count: int = 1) -> None:
        """Count something that is not in the output; 0 is nothing."""
        if count:
            self.lost[what] += int(count)

    def lines(self) -> list[str]:
        """Text, one fact a line."""
        lost = [f"{count:,} {what}" for what, count in self.lost.items()] or ["nothing"]
        return [*_named("read", self.read), *_named("rule", self.notes), *_named("written", self.written)] + _named(
            "lost", lost
        )


def _named(name: str, facts: Iterable[str]) -> list[str]:
    return [f"{name + ':':<9}{fact}" for fact in facts]


def counted(number: int, one: str, many: str | None = None) -> str:
    """``1 image``, ``2 images``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
