"""
The slices' Prometheus pages as one, each sample with the label `slice`. Pure.

Every series is kept apart: Prometheus adds up what should be added up, and a sum made here would
fall when a slice restarts.

Source: Prometheus text format 0.0.4.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

FAMILIES_MAX: Final = 10_000
# name, labels in braces (values may hold any character, quotes escaped), the rest
_SAMPLE: Final = re.compile(
    r'(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>(?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?'
    r"(?P<rest>[ \t]+\S.*)"
)
_SUFFIXES: Final = ("_bucket", "_sum", "_count", "_total", "_created")


@dataclass(slots=True)
class _Family:
    header: list[str] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)


def merge_metrics(pages: Mapping[str, str]) -> str:
    """
    Return one page for the pages of slices by name.

    The first slice that has a family describes it; lines that are no samples are left out.
    """
    families: dict[str, _Family] = {}
    for name, page in pages.items():
        described: dict[str, list[str]] = {}
        for line in page.splitlines():
            if line.startswith("#"):
                parts = line.split(None, 3)
                if len(parts) >= 3 and parts[1] in ("HELP", "TYPE"):
                    described.setdefault(parts[2], []).append(line)
                continue
            found = _SAMPLE.fullmatch(line.strip())
            if found is None:
                continue
            family_name = _family_of(found["name"], described)
            if len(families) >= FAMILIES_MAX and family_name not in families:
                continue
            family = families.setdefault(family_name, _Family())
            if not family.header:
                family.header = described.get(family_name, [])
            family.samples.append(_labelled(found, name))
    lines = [line for family in families.values() for line in (*family.header, *family.samples)]
    return "\n".join(lines) + "\n" if lines else ""


def _family_of(name: str, described: Mapping[str, list[str]]) -> str:
    """Return the family a sample belongs to: `x_bucket` is one of histogram `x`."""
    if name in described:
        return name
    for suffix in _SUFFIXES:
        bare = name.removesuffix(suffix)
        if bare != name and bare in described:
            return bare
    return name


def _labelled(found: re.Match[str], name: str) -> str:
    # A slice's name needs no escaping: see contract.slice_spec.NAME_PATTERN.
    labels = (found["labels"] or "").strip().removesuffix(",")
    both = f'slice="{name}",{labels}' if labels else f'slice="{name}"'
    return f"{found['name']}{{{both}}}{found['rest']}"
