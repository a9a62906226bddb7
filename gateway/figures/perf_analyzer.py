"""The load by perf_analyzer, Triton's own tool, where there is one; its CSV is kept."""

import subprocess
from pathlib import Path
from typing import Final

from contract.slice_spec import Endpoint
from gateway.figures.points import Point, from_csv
from gateway.flowers.asking import AskError

PROGRAM: Final = "perf_analyzer"
SLACK_S: Final = 300.0


def version(program: str) -> str:
    """Return what it says of itself; "" when it says nothing."""
    try:
        done = subprocess.run(  # noqa: S603 (its arguments are ours)
            [program, "--version"], capture_output=True, text=True, check=False, timeout=SLACK_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).strip()


def measure(
    program: str, endpoint: Endpoint, model: str, *, over_grpc: bool, slices: int,
    concurrency: int, seconds: float, folder: Path,
) -> Point:  # fmt: skip
    """Run it for one point. Raises AskError when it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"perf_analyzer-{slices}-{concurrency}.csv"
    command = [
        program, "-m", model, "-u", str(endpoint), "-i", "grpc" if over_grpc else "http",
        "--concurrency-range", f"{concurrency}:{concurrency}", "-f", str(path),
        "--measurement-interval", str(round(seconds * 1e3)),
    ]  # fmt: skip
    try:
        done = subprocess.run(  # noqa: S603 (its arguments are ours)
            command, capture_output=True, text=True, check=False, timeout=SLACK_S + 20 * seconds
        )
        if done.returncode:
            raise AskError(f"{program} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        return from_csv(path.read_text(encoding="utf-8"), slices)
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, IndexError) as error:
        raise AskError(f"{program}: {error}") from None
