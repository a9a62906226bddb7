"""Starts and stops the launcher and the gateway as a user would: as commands of their own."""

import asyncio
import ctypes
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from tools.demo.admin import Admin, AdminError

SLICES: Final = 7
READY_TIMEOUT_S: Final = 180.0
STOP_TIMEOUT_S: Final = 60.0
_PR_SET_PDEATHSIG: Final = 1


class StackError(Exception):
    """Something did not start; the message is for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Places:
    """
    Where everything is.

    Attributes:
        listen: The gateway's address for clients, `host:port`.
        admin: The gateway's admin API, `host:port`.
        port_base: HTTP port of the first Triton.
        run_dir: Folder for logs, inventory and state.
    """

    listen: str
    admin: str
    port_base: int
    run_dir: Path


class Stack:
    """The launcher with its Tritons, and the gateway in front."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._launcher: asyncio.subprocess.Process | None = None
        self._gateway: asyncio.subprocess.Process | None = None

    async def start(self, admin: Admin) -> None:
        """
        Start both, and return when the gateway can use every slice.

        Raises:
            StackError: One of them ended, or time was up.
        """
        places = self._places
        places.run_dir.mkdir(parents=True, exist_ok=True)
        inventory, config = places.run_dir / "slices.json", places.run_dir / "gateway.yaml"
        config.write_text(
            yaml.safe_dump(
                {
                    "listen": places.listen,
                    "admin": {"listen": places.admin},
                    "inventory": str(inventory),
                    "state_file": str(places.run_dir / "gateway-state.json"),
                }
            )
        )
        self._launcher = await _start(
            ["launcher", "up", "--gpu", "simulated:a100-40gb", "--port-base", str(places.port_base),
             "--state-dir", str(places.run_dir), "--inventory", str(inventory)],
            places.run_dir / "launcher.log", quiet=False,
        )  # fmt: skip
        await self._wait_for(inventory.exists, "the launcher's inventory")
        self._gateway = await _start(
            ["gateway", "serve", "--config", str(config)],
            places.run_dir / "gateway.log",
            quiet=True,
        )
        await self._wait_for_slices(admin)

    async def stop(self) -> None:
        """Stop the gateway first, so that nobody is sent to a server that is leaving."""
        for process in (self._gateway, self._launcher):
            if process is None or process.returncode is not None:
                continue
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    async def ended(self) -> str:
        """Wait until the launcher or the gateway ends by itself; say which."""
        running = {"launcher": self._launcher, "gateway": self._gateway}
        waits = {
            asyncio.ensure_future(process.wait()): name
            for name, process in running.items()
            if process is not None
        }
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        first = done.pop()
        name, status = waits[first], first.result()
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        return f"the {name} has ended {how}; its log: {self._places.run_dir / f'{name}.log'}"

    async def _wait_for_slices(self, admin: Admin) -> None:
        deadline_s = asyncio.get_running_loop().time() + READY_TIMEOUT_S
        while True:
            self._check_alive()
            try:
                slices = await admin.slices()
            except AdminError:
                slices = []
            if len(slices) == SLICES and all(s["state"] == "ready" for s in slices):
                return
            if asyncio.get_running_loop().time() > deadline_s:
                states = ", ".join(f"{s['name']} {s['state']}" for s in slices) or "no slices"
                raise StackError(f"the slices are not ready after {READY_TIMEOUT_S:g} s: {states}")
            await asyncio.sleep(0.1)

    async def _wait_for(self, condition: object, what: str) -> None:
        assert callable(condition)
        deadline_s = asyncio.get_running_loop().time() + READY_TIMEOUT_S
        while not condition():
            self._check_alive()
            if asyncio.get_running_loop().time() > deadline_s:
                raise StackError(f"no {what} after {READY_TIMEOUT_S:g} s")
            await asyncio.sleep(0.05)

    def _check_alive(self) -> None:
        for name, process in (("launcher", self._launcher), ("gateway", self._gateway)):
            if process is not None and process.returncode is not None:
                log = self._places.run_dir / f"{name}.log"
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise StackError("".join(last) or f"the {name} ended: {process.returncode}")


async def _start(module: list[str], log: Path, *, quiet: bool) -> asyncio.subprocess.Process:
    """
    Start `python -m MODULE…`, in a group of its own, so that Ctrl-C reaches us alone.

    Standard error goes to `log`; standard output too when `quiet`, else to the terminal.
    """
    parent = os.getpid()

    def die_with_parent() -> None:
        # Were the demo killed, SIGTERM makes both of them stop what they started.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)

    with log.open("wb") as output:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", *module,
            stdin=asyncio.subprocess.DEVNULL, stdout=output if quiet else None, stderr=output,
            start_new_session=True, preexec_fn=die_with_parent,
        )  # fmt: skip
