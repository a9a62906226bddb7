"""
Stands in for NVIDIA's programs, by the name it is called by; see nvidia.py.

    nvidia-container-runtime-hook    OCI hook: grants what NVIDIA_VISIBLE_DEVICES asks for
    nvidia-cdi-hook UUID...          OCI hook that the CDI specification names
    nvidia-container-runtime ...     OCI runtime: adds the first hook to the bundle, becomes runc
"""

import fcntl
import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(sys.argv[0]).resolve().parents[1]
HOOK = ROOT / "bin" / "nvidia-container-runtime-hook"


def grant(container: str, uuids: list[str], way: str) -> None:
    """Record the devices; refuse one that does not exist with the words of nvidia-container-cli."""
    known = (ROOT / "devices").read_text().split()
    for uuid in uuids:
        if uuid not in known:
            sys.exit(
                "Auto-detected mode as 'legacy'\n"
                f"nvidia-container-cli: device error: {uuid}: unknown device"
            )
    with (ROOT / "grants").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps({"container": container, "uuids": uuids, "way": way}) + "\n")


def as_hook(given: list[str]) -> None:
    """Grant what a container asks for."""
    state = json.load(sys.stdin)
    if Path(sys.argv[0]).name == "nvidia-cdi-hook":
        grant(state["id"], given, "cdi")
        return
    config = json.loads(Path(state["bundle"], "config.json").read_text())
    environment = dict(entry.partition("=")[::2] for entry in config["process"]["env"])
    asked = environment.get("NVIDIA_VISIBLE_DEVICES", "")
    if asked not in ("", "void", "none"):
        way = "runtime" if config.get("annotations", {}).get("nvidia.runtime") else "hook"
        grant(state["id"], asked.split(","), way)


def as_runtime(given: list[str]) -> None:
    """Add the hook to the bundle that is to be created, then let runc do it all."""
    if "create" in given:
        path = Path(_option(given, "--bundle"), "config.json")
        config: dict[str, Any] = json.loads(path.read_text())
        hooks = config.setdefault("hooks", {}).setdefault("prestart", [])
        if not any(hook["path"] == str(HOOK) for hook in hooks):
            hooks.append({"path": str(HOOK), "args": [HOOK.name, "prestart"]})
        config.setdefault("annotations", {})["nvidia.runtime"] = "1"
        path.write_text(json.dumps(config))
    os.execvp("runc", ["runc", *given])


def _option(given: list[str], name: str) -> str:
    for i, word in enumerate(given):
        if word == name:
            return given[i + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return "."


if __name__ == "__main__":
    if Path(sys.argv[0]).name == "nvidia-container-runtime":
        as_runtime(sys.argv[1:])
    else:
        as_hook(sys.argv[1:])
