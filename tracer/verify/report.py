"""What verifying an archive tells."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

LISTED = 1000  # findings of one kind that are listed one by one


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was written.

    kind: `root`, `manifest`, `missing`, `size`, `damaged`, `extra`, `document`, `rows`, `streams`, `blocks` or
    `replay`.
    where: a file or array. step: the first that is concerned, where that is known.
    """

    kind: str
    where: str
    text: str
    step: int | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


@dataclass
class Report:
    """What verifying found.

    findings: empty for a sound archive. notes: what is no damage but worth knowing. counts: how much was
    looked at (`arrays`, `objects`, `bytes`, `snapshots`, and `replayed` snapshots). rounding: by array that a
    replay did not give bit for bit, how far apart; none beyond 1e-5 of its largest value, which is a finding, or of
    the outputs' for what follows from losses near 0.
    """

    path: str
    depth: str
    state: str = "unknown"
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    rounding: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._of_kind = Counter(finding.kind for finding in self.findings)

    @classmethod
    def of(cls, fields: dict[str, Any]) -> "Report":
        """The report that another process made, from its fields."""
        return cls(**{**fields, "findings": [Finding(**finding) for finding in fields["findings"]]})

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def exit_code(self) -> int:
        """0 if nothing was found, else 1."""
        return int(not self.ok)

    def add(self, kind: str, where: str, text: str, step: int | None = None) -> None:
        """Enter a finding; from the thousandth of a kind on they are only counted."""
        self._of_kind[kind] += 1
        if self._of_kind[kind] <= LISTED:
            self.findings.append(Finding(kind, where, text, step))
        else:
            self.counts["unlisted"] = self.counts.get("unlisted", 0) + 1

    def __str__(self) -> str:
        looked = "; ".join(
            [self.depth, *filter(None, [", ".join(f"{n} {what}" for what, n in self.counts.items())])]
        )
        lines = [f"{self.path} ({self.state}): {'sound' if self.ok else 'damaged'} ({looked})"]
        return "\n".join([*lines, *map(str, self.findings), *self.notes])
