"""
What stands in for NVIDIA's container tools, so that a real engine takes requests for MIG devices.

An engine registers the GPU driver "nvidia" when it finds `nvidia-container-runtime-hook` on its
PATH as it starts. From then on a device request puts NVIDIA_VISIBLE_DEVICES into the container's
environment and that program before its start: nvidia_hook.py. The runtime "nvidia" and a CDI
specification are there too. Only devices that `set_devices` was told are granted; each grant is
recorded. Nothing can compute.
"""

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOOK = Path(__file__).with_name("nvidia_hook.py")
NAMES = ("nvidia-container-runtime-hook", "nvidia-container-runtime", "nvidia-cdi-hook")


@dataclass(frozen=True)
class Grant:
    """A device that a container was given, and by which way: `hook`, `runtime` or `cdi`."""

    container: str
    way: str
    uuids: tuple[str, ...]


class NvidiaStandIn:
    """The tools, written into `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        (folder / "cdi").mkdir()
        for name in NAMES:
            # The interpreter itself, by its full path: the engine starts these with a bare PATH.
            program = folder / "bin" / name
            program.write_text(f"#!{os.path.realpath(sys.executable)}\n{HOOK.read_text()}")
            program.chmod(0o755)
        self.set_devices(())

    def set_devices(self, uuids: Iterable[str]) -> None:
        """Let these devices exist, and no others."""
        listed = list(uuids)
        (self.folder / "devices").write_text("".join(f"{uuid}\n" for uuid in listed))
        self.set_cdi_devices(listed)

    def set_cdi_devices(self, uuids: Iterable[str]) -> None:
        """Let the CDI specification name these: it may be behind the truth."""
        devices = [
            {
                "name": uuid,
                "containerEdits": {
                    "env": ["NVIDIA_VISIBLE_DEVICES=void"],
                    "hooks": [
                        {
                            "hookName": "createRuntime",
                            "path": str(self.folder / "bin" / "nvidia-cdi-hook"),
                            "args": ["nvidia-cdi-hook", uuid],
                        }
                    ],
                },
            }
            for uuid in uuids
        ]
        document = {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices}
        (self.folder / "cdi" / "nvidia.json").write_text(json.dumps(document))

    def grants(self) -> list[Grant]:
        """Return what was granted, in order."""
        path = self.folder / "grants"
        lines = path.read_text().splitlines() if path.exists() else []
        entries = [json.loads(line) for line in lines]
        return [Grant(e["container"], e["way"], tuple(e["uuids"])) for e in entries]

    def daemon_settings(self) -> dict[str, Any]:
        """Return what daemon.json must say."""
        runtime = {"path": str(self.folder / "bin" / "nvidia-container-runtime")}
        return {
            "runtimes": {"nvidia": runtime},
            "features": {"cdi": True},
            "cdi-spec-dirs": [str(self.folder / "cdi")],
        }
