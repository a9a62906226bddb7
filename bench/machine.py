"""Where and with what a run was made: a figure without it says nothing later."""

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.measure import Cores
from bench.proxies.base import first_line
from bench.standins import ROOT


def describe(versions: Mapping[str, str], cores: Cores) -> dict[str, Any]:
    """Return facts for the report: time, commit, machine, versions, and what is pinned where."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(ROOT),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average_before": [round(value, 2) for value in os.getloadavg()],
        "pinning": _pinning(cores),
        "versions": {**versions, **_tool_versions()},
    }


def commit(root: Path) -> str:
    """Return the commit of the checkout at `root`, marked when files differ; or `unknown`."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _pinning(cores: Cores) -> str:
    if not cores.proxy:
        return "one core: proxies, slices and load generators share it; only CPU time holds"
    rest = ",".join(map(str, cores.rest))
    return f"proxies on core {cores.proxy[0]}, slices and load generators on {rest}"


def _tool_versions() -> dict[str, str]:
    found = {}
    for tool, flag in (("wrk", "-v"), ("h2load", "--version"), ("nghttpd", "--version")):
        try:
            found[tool] = first_line([tool, flag]).split(" Copyright")[0]
        except OSError:
            continue  # not installed, so not used: _need_tools has seen to that
    return found


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
