"""
Every figure of docs/performance.md, in one run: `make bench`.

What a request costs beside Envoy, nginx and HAProxy; memory with idle connections; the tail under
Poisson arrivals. Arguments that are not listed here go to the comparison (bench.compare --help).
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bench import compare, idle, tail

Program = Callable[[Sequence[str]], int]
PARTS: Final[dict[str, Program]] = {"compare": compare.main, "idle": idle.main, "tail": tail.main}
DOCUMENT: Final = Path("docs/performance.md")
QUICK_TAIL: Final = ("--requests", "4000")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts in turn; return the exit status of the first that fails, or 0."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    names = ",".join(PARTS)
    parser.add_argument("--parts", default=names, help=f"these only, from {names}")
    parser.add_argument("--quick", action="store_true", help="about two minutes, rough figures")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {DOCUMENT}")
    options, others = parser.parse_known_args(arguments)
    parts = [name.strip() for name in options.parts.split(",")]
    if unknown := [name for name in parts if name not in PARTS]:
        parser.error(f"--parts: there is no {unknown[0]!r}; known: {names}")
    if options.quick:
        others.append("--quick")
    more = {"compare": others, "tail": QUICK_TAIL if options.quick else ()}
    tables: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="mig-gateway-bench-") as folder:
        for name in parts:
            file = Path(folder) / f"{name}.md"
            if status := PARTS[name]([*more.get(name, ()), "--markdown", str(file)]):
                return status
            tables[name] = file.read_text()
    if options.write:
        DOCUMENT.write_text(put_in(DOCUMENT.read_text(), tables))
        print(f"written: {DOCUMENT}", file=sys.stderr)
    return 0


def put_in(document: str, tables: dict[str, str]) -> str:
    """
    Return `document` with each table in place of what stands between the lines of its name.

    Raises:
        ValueError: The lines `<!-- NAME -->` and `<!-- end of NAME -->` are not there.
    """
    for name, table in tables.items():
        before, begin, rest = document.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->\n")
        if not (begin and end):
            raise ValueError(f"there is no place marked {name!r} in the document")
        document = f"{before}{begin}\n{table.strip()}\n\n{end}{after}"
    return document


if __name__ == "__main__":
    sys.exit(main())
