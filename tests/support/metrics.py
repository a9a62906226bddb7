"""The metrics that docs/admin-api.md tells of."""

import re
from pathlib import Path
from typing import Final

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "admin-api.md"


def documented() -> set[str]:
    """Return their names: those in the first column of its table, `*` written out."""
    section = DOCUMENT.read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    names = {name for cell in cells for name in re.findall(r"`([\w*]+)`", cell)}
    return {
        "mig_gateway_" + name.replace("*", word)
        for name in names
        for word in (("hits", "misses") if "*" in name else ("",))
    }
