"""
Compares what mig-launcher reads of the GPUs with what nvidia-smi prints; read-only.

    python -m tools.compare_with_nvidia_smi

Run it on a machine with a GPU; MIG mode may be off where the driver answers then, too (R580 does).
Then it plans some layouts, which changes nothing either. Exit code 1 when anything differs.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

PROFILE: Final = re.compile(
    r"\|\s+(?P<gpu>\d+)\s+MIG (?P<name>\S+)\s+(?P<id>\d+)\s+(?P<free>\d+)/(?P<total>\d+)"
    r"\s+(?P<gib>[\d.]+)\s+\w+\s+(?P<sm>\d+)\s+(?P<dec>\d+)\s+(?P<enc>\d+)\s+\|"
)
ENGINES: Final = re.compile(r"\|\s+(?P<ce>\d+)\s+(?P<jpeg>\d+)\s+(?P<ofa>\d+)\s+\|")
PLACES: Final = re.compile(
    r"GPU\s+(\d+)\s+Profile ID\s+(\d+)\s+Placements?\s*:\s*\{?([\d,]+)\}?:(\d+)"
)
LAYOUTS: Final = ("all-1g", "balanced", "3g,2g,1g,1g", "3g@4,2g@0", "1g+me,1g", "4g,4g")


@dataclass(frozen=True, slots=True)
class Row:
    """One profile of one GPU; memory in GiB with two digits, as nvidia-smi prints it."""

    gpu: int
    name: str
    id: int
    total: int
    gib: str
    sm: int
    engines: tuple[int, int, int, int, int]
    """CE, DEC, ENC, JPEG, OFA."""


def listed(text: str) -> list[Row]:
    """Read `nvidia-smi mig -lgip`: two lines for each profile."""
    rows = []
    lines = iter(text.splitlines())
    for line in lines:
        found = PROFILE.search(line)
        if found is None:
            continue
        second = ENGINES.search(next(lines))
        if second is None:
            raise ValueError(f"no second line after {line!r}")
        counts = (second["ce"], found["dec"], found["enc"], second["jpeg"], second["ofa"])
        engines = tuple(int(count) for count in counts)
        rows.append(
            Row(
                int(found["gpu"]), found["name"], int(found["id"]), int(found["total"]),
                found["gib"], int(found["sm"]), engines,  # type: ignore[arg-type]
            )
        )  # fmt: skip
    return rows


def placed(text: str) -> dict[tuple[int, int], list[str]]:
    """Read `nvidia-smi mig -lgipp`: (GPU, profile id) to `start:size`."""
    return {
        (int(gpu), int(profile)): [f"{start}:{size}" for start in starts.split(",")]
        for gpu, profile, starts, size in PLACES.findall(text)
    }


def ours(documents: Sequence[dict[str, Any]]) -> list[Row]:
    """Return the rows of `mig-launcher profiles --json`."""
    return [
        Row(
            document["index"], profile["name"], profile["id"], profile["max"],
            f"{profile['memory_mib'] / 1024:.2f}", profile["multiprocessors"],
            tuple(profile["engines"].values()),
        )
        for document in documents
        for profile in document["profiles"]
    ]  # fmt: skip


def main() -> int:
    """Print both, and what differs."""
    out = sys.stdout.write
    command = [sys.executable, "-m", "launcher"]
    shown = _run([*command, "profiles", "--json"])
    document = json.loads(shown)
    documents = document.get("gpus", [document])
    out(_run([*command, "profiles"]))
    smi = shutil.which("nvidia-smi") or "nvidia-smi"
    profiles, places = (_run([smi, "mig", flag]) for flag in ("-lgip", "-lgipp"))
    out(profiles + places)
    theirs, mine = listed(profiles), ours(documents)
    different = [row for row in (*theirs, *mine) if (row in theirs) != (row in mine)]
    for row in different:
        out(f"{'nvidia-smi' if row in theirs else 'mig-launcher'} alone has {row}\n")
    at = {
        (entry["index"], profile["id"]): profile["placements"]
        for entry in documents
        for profile in entry["profiles"]
    }
    wrong = {
        key: (at.get(key), value) for key, value in placed(places).items() if at.get(key) != value
    }
    out(f"placements that differ: {wrong}\n" if wrong else "")
    for layout in LAYOUTS:
        out(f"\n$ mig-launcher plan --layout {layout}\n")
        out(_run([*command, "plan", "--layout", layout, "--state-dir", "/nonexistent"]))
    if not theirs:
        out("\nnvidia-smi lists no profiles here: nothing was compared\n")
    out(f"\n{len(theirs)} profiles of nvidia-smi, {len(different)} differences\n")
    return 1 if different or wrong or not theirs else 0


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(  # noqa: S603 - fixed commands
        command, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(main())
