"""A whole system of the command's own: launcher, Tritons, gateway, on free ports of this machine."""

import ctypes
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from contract.slice_spec import Endpoint
from gateway.admin_client import AdminClient, CallError

SIMULATED: Final = "simulated:a100-40gb"
MODEL: Final = "timed"
PORTS: Final = 16
"""Slices for which the ports are free."""
READY_S: Final = 240.0
STOP_S: Final = 60.0
_MODELS: Final = Path(__file__).parent / "models"
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class System:
    """Where it is."""

    clients: Endpoint
    admin: str


def timed_model(folder: Path, service_ms: float) -> Path:
    """Write a model repository whose one model takes `service_ms`; return it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(_MODELS, folder)
    config = folder / MODEL / "config.pbtxt"
    text = config.read_text().replace('string_value: "10"', f'string_value: "{service_ms:g}"')
    config.write_text(text)
    return folder


@contextmanager
def started(folder: Path, gpu: str, models: Path) -> Iterator[System]:
    """
    Run what the launcher makes of `gpu` with `models`, and a gateway, for as long as the block.

    Raises:
        CallError: It did not come up; the message says where its logs are.
    """
    folder = folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    base = _free_block()
    inventory = folder / "slices.json"
    listen, admin = (f"127.0.0.1:{base + 3 + at}" for at in range(2))
    (folder / "gateway.yaml").write_text(
        yaml.safe_dump(
            {
                "listen": listen, "admin": {"listen": admin},
                "inventory": str(inventory),
                "state_file": str(folder / "gateway-state.json"),
                "ejection": {"slow_start": 0},
            }
        )
    )  # fmt: skip
    running: list[subprocess.Popen[bytes]] = []
    try:
        running.append(
            _start(
                folder, "launcher", "up", "--gpu", gpu, "--port-base", str(base),
                "--state-dir", str(folder), "--inventory", str(inventory),
                "--model-repository", str(models.absolute()),
            )
        )  # fmt: skip
        running.append(_start(folder, "gateway", "serve", "--config", str(folder / "gateway.yaml")))
        _wait_ready(AdminClient(f"http://{admin}"), inventory, running)
        yield System(Endpoint.parse(listen), admin)
    finally:
        for process in reversed(running):
            process.send_signal(signal.SIGTERM)
        for process in reversed(running):
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(folder: Path, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
    with (folder / f"{program}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", program, *arguments], stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, start_new_session=True,
            # However the command ends, even killed, what it has started goes with it.
            preexec_fn=lambda: _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM)),  # noqa: PLW1509
        )  # fmt: skip


def _wait_ready(
    calls: AdminClient, inventory: Path, running: list["subprocess.Popen[bytes]"]
) -> None:
    folder = inventory.parent
    deadline_s = time.monotonic() + READY_S
    while True:
        for process in running:
            if process.poll() is not None:
                raise CallError(f"{process.args!r} has ended; see its log in {folder}")
        try:
            views = calls.call("GET", "/v1/slices", 10.0)["slices"]
        except CallError:
            views = []
        known = _inventory_size(inventory)
        if known and len(views) == known and all(view["state"] == "ready" for view in views):
            return
        if time.monotonic() > deadline_s:
            raise CallError(f"not ready within {READY_S:g} s; see the logs in {folder}")
        time.sleep(0.2)


def _inventory_size(inventory: Path) -> int:
    """Return how many slices the launcher has written down so far."""
    try:
        return len(json.loads(inventory.read_text(encoding="utf-8"))["slices"])
    except FileNotFoundError:
        return 0  # it has not come so far


def _free_block() -> int:
    """Return a base port such that all that are needed from there on are free."""
    for _ in range(100):
        base = random.SystemRandom().randrange(10_000, 30_000, 100)
        if all(_is_free(base + 10 * at + k) for at in range(PORTS) for k in range(5)):
            return base
    raise CallError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
