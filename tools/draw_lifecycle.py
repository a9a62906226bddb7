"""
Draws the tables and diagrams of docs/slice-lifecycle.md from the tables of gateway.fleet.lifecycle.

    python -m tools.draw_lifecycle     writes them between their markers
"""

import re
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path
from typing import Final

from gateway.fleet.health import NEXT_HEALTH
from gateway.fleet.lifecycle import MODEL, NEXT_EJECTION, ROWS, Ejection, Step, Traffic

DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "slice-lifecycle.md"
_MARKED: Final = re.compile(r"(<!-- drawn: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

_WORK: Final = {
    Traffic.ALL: "**all**",
    Traffic.ONE: "one request, by which it is judged",
    Traffic.RESERVE: "only while nobody takes all",
    Traffic.NONE: "none",
}
_STEPS: Final = {
    Step.EJECT: "it fails and others do not",
    Step.TIME: "time is over",
    Step.TRY: "a request is sent",
    Step.ANSWERED: "it answers",
    Step.FAILED: "it fails",
    Step.UNDECIDED: "nothing was learned",
    Step.FORGET: "another server",
}


def states() -> str:
    """Return the table of what follows from order, health and ejection."""
    lines = ["| order | health | ejection | state | new work |", "|---|---|---|---|---|"]
    for orders, healths, ejections, state, traffic in ROWS:
        cells = (_names(orders, 3), _names(healths, 3), _names(ejections, 4))
        lines.append(f"| {' | '.join(cells)} | `{state.value}` | {_WORK[traffic]} |")
    return "\n".join(lines)


def models() -> str:
    """Return the table of what a model on a slice takes."""
    lines = ["| ejection of the model | inference for it, at most |", "|---|---|"]
    lines += [f"| {ejection.value} | {_WORK[traffic]} |" for ejection, traffic in MODEL.items()]
    return "\n".join(lines)


def health() -> str:
    """Return the diagram of health."""
    edges = [
        (before.value, after.value, "checks pass" if passed else "checks fail")
        for (before, passed), after in NEXT_HEALTH.items()
    ]
    return _diagram("unknown", edges)


def ejection() -> str:
    """Return the diagram of ejection."""
    edges = [
        (before.value, after.value, _STEPS[step]) for (before, step), after in NEXT_EJECTION.items()
    ]
    return _diagram(Ejection.FREE.value, edges)


DRAWINGS: Final[dict[str, Callable[[], str]]] = {
    "states": states,
    "models": models,
    "health": health,
    "ejection": ejection,
}


def drawn(text: str) -> str:
    """Return the document with every drawing as the tables are now. Raises KeyError."""
    return _MARKED.sub(lambda m: f"{m[1]}{DRAWINGS[m[2]]()}\n{m[3]}", text)


def main() -> None:
    """Write the document anew."""
    DOCUMENT.write_text(drawn(DOCUMENT.read_text()))


def _names(values: Iterable[Enum], of: int) -> str:
    names = [str(value.value) for value in values]
    return "any" if len(names) == of else ", ".join(names)


def _diagram(start: str, edges: Iterable[tuple[str, str, str]]) -> str:
    lines = ["```mermaid", "stateDiagram-v2", "    direction LR", f"    [*] --> {start}"]
    joined: dict[tuple[str, str], list[str]] = {}
    for before, after, label in edges:
        joined.setdefault((before, after), []).append(label)
    lines += [f"    {a} --> {b}: {', or '.join(labels)}" for (a, b), labels in joined.items()]
    return "\n".join([*lines, "```"])


if __name__ == "__main__":
    main()
