"""
Compare two runs of bench.compare: `python -m bench.diff BEFORE.json AFTER.json`.

Machines and moods of machines differ between runs. So each figure is taken relative to Envoy in
its own run where both runs have it, and a change counts as one when it is larger than the spread
of the rounds.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench import report


@dataclass(frozen=True, slots=True)
class Change:
    """
    One proxy in one cell, before and after.

    Attributes:
        before: CPU per request relative to Envoy's, or in microseconds when `relative` is False.
        after: The same in the second run.
        relative: Whether both runs measured Envoy in this cell.
        noise: The larger spread of the two runs, as a share of the median; of a ratio, the sum
            of the spreads of its two parts.
    """

    cell: str
    proxy: str
    before: float
    after: float
    relative: bool
    noise: float

    @property
    def share(self) -> float:
        """By how much it grew, as a share; negative is cheaper."""
        return self.after / self.before - 1

    @property
    def verdict(self) -> str:
        if abs(self.share) <= self.noise:
            return "within the noise"
        return "cheaper" if self.share < 0 else "DEARER"


def changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[Change]:
    """Yield a change for each cell and proxy that both documents have, the yardstick left out."""
    for name, cell in before["cells"].items():
        old_rows = cell["proxies"]
        new_rows = after["cells"].get(name, {"proxies": {}})["proxies"]
        relative = report.YARDSTICK in old_rows and report.YARDSTICK in new_rows
        value = "to_yardstick" if relative else "cpu_us"
        for proxy, old in old_rows.items():
            if proxy in new_rows and not (relative and proxy == report.YARDSTICK):
                new = new_rows[proxy]
                noise = max(_spread(old), _spread(new))
                if relative:  # a ratio is as uncertain as both of its parts
                    noise = max(
                        _spread(old) + _spread(old_rows[report.YARDSTICK]),
                        _spread(new) + _spread(new_rows[report.YARDSTICK]),
                    )
                yield Change(cell["title"], proxy, old[value], new[value], relative, noise)


def load(file: Path) -> dict[str, Any]:
    """
    Read what bench.compare wrote.

    Raises:
        ValueError: It is something else; the message names the file.
    """
    try:
        document = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(document, dict) or document.get("version") != report.JSON_VERSION:
        raise ValueError(f"{file}: not a result of bench.compare, version {report.JSON_VERSION}")
    return document


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the changes; return 0, or 2 when a file cannot be used."""
    parser = argparse.ArgumentParser(prog="bench.diff", description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args(arguments)
    try:
        before, after = load(options.before), load(options.after)
    except ValueError as error:
        Console(stderr=True).print(f"[red]{error}[/red]", highlight=False)
        return 2
    commits = (document["machine"]["commit"] for document in (before, after))
    table = Table(title="CPU per request: " + " against ".join(commits), title_justify="left")
    for heading in ("request", "proxy", "unit", "before", "after", "change", "noise", "verdict"):
        table.add_column(heading, justify="left" if heading in _TEXT_HEADINGS else "right")
    for one in changes(before, after):
        unit, digits = ("x envoy", 3) if one.relative else ("us", 1)
        table.add_row(
            one.cell,
            one.proxy,
            unit,
            f"{one.before:.{digits}f}",
            f"{one.after:.{digits}f}",
            f"{one.share:+.1%}",
            f"{one.noise:.0%}",
            one.verdict,
        )
    report.console().print(table)
    return 0


_TEXT_HEADINGS: Final = frozenset({"request", "proxy", "unit", "verdict"})


def _spread(row: dict[str, Any]) -> float:
    return float((row["cpu_us_high"] - row["cpu_us_low"]) / row["cpu_us"])


if __name__ == "__main__":
    sys.exit(main())
