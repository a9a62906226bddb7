"""A real mig-launcher in its own folder, models for it, and waiting without sleeping blindly."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from launcher import status

REPOSITORY = Path(__file__).parents[2]
MIG_LAUNCHER = [sys.executable, "-m", "launcher"]
MODEL = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "INPUT") for request in requests]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", given.as_numpy())])
            for given in inputs
        ]
"""
MODEL_CONFIG = """
backend: "python"
input [{ name: "INPUT" data_type: TYPE_INT32 dims: [-1] }]
output [{ name: "OUTPUT" data_type: TYPE_INT32 dims: [-1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""


def write_model(repository: Path, name: str, code: str = MODEL) -> Path:
    """Write a Python model into a repository and return the repository."""
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(MODEL_CONFIG)
    (repository / name / "1" / "model.py").write_text(code)
    return repository


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Wait for a condition; fail by name when it does not come."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


class Launcher:
    """mig-launcher on a simulated A100 with a state folder of its own."""

    def __init__(self, folder: Path, port_base: int) -> None:
        self.state_dir = folder / "run"
        self.models = write_model(folder / "models", "echo")
        self.port_base = port_base

    def popen(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a command."""
        return subprocess.Popen(
            [*MIG_LAUNCHER, arguments[0], "--state-dir", str(self.state_dir), *arguments[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )

    def call(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        with self.popen(*arguments) as process:
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def up_arguments(self, *more: str, models: Path | None = None) -> list[str]:
        """Return `up` for two slices, the least that shows both sides."""
        arguments = {
            "--gpu": "simulated:a100-40gb",
            "--layout": "2g,1g",
            "--port-base": str(self.port_base),
            "--model-repository": str(models or self.models),
        }
        flat = [word for pair in arguments.items() for word in pair]
        return ["up", *flat, *more]

    def status(self) -> dict[str, Any]:
        """Return what `status --json` prints, without a process for it."""
        return status.as_dict(status.read(self.state_dir))

    def pids(self) -> list[int | None]:
        """Return the pids of the servers by slice."""
        return [member["pid"] for member in self.status()["slices"]]

    def traces(self) -> list[str]:
        """Return what is left of this launcher: processes, shared memory, files, instances."""
        left = [
            f"process {pid}: {line}"
            for pid, line in _command_lines()
            if str(self.models.parent) in line and " launcher status" not in line
        ]
        left += [str(self.state_dir / name) for name in ("launcher.json", "slices.json")]
        left = [trace for trace in left if trace.startswith("process") or Path(trace).exists()]
        for gpu in self.state_dir.glob("simulated-*.json"):
            state = json.loads(gpu.read_text())
            left += [f"{gpu.name}: {key}" for key in ("instances", "compute") if state[key]]
        return left


def _command_lines() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        # The watchdog and this very test name the folder too, and are not the launcher's.
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if "tritonserver" in line or "backend_stub" in line or "-m launcher up" in line:
                yield int(entry.name), line
