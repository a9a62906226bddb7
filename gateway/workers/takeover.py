"""
Takeover: a newer gateway continues on the sockets of the one that runs.

The old gateway starts its successor with its own command line, and hands it its listening sockets:
as inherited file descriptors, since a socket that is merely bound again (SO_REUSEPORT) loses what
waits in the queue of the one that is closed. When the successor says that it serves, the old one
stops accepting; until then both do, and every connection is somebody's. A successor that cannot
start says why, and the old gateway goes on as if nothing had been.
"""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog

from gateway.control.processes import UpgradeError
from gateway.workers.doors import Shares, flat, opened

log = structlog.get_logger()

VARIABLE: Final = "MIG_GATEWAY_TAKEOVER"
"""{"doors": see Doors.numbers, "admin": [descriptor], "answer": descriptor, "serving": [slice]}"""
READY_S: Final = 60.0
"""For a successor to start its workers, check its slices and say that it serves."""
ANSWER_BYTES_MAX: Final = 64 * 1024
END_S: Final = 5.0
_FIRST: Final = 1


class Predecessor:
    """
    What a gateway before us has left us.

    Attributes:
        doors: Its sockets by endpoint; see Doors.
        admin: Those of its admin API.
        slices: Names of those that take its work.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self.doors: dict[str, Shares] = opened(document["doors"])
        self.admin = [socket.socket(fileno=number) for number in document["admin"]]
        for sock in self.admin:
            sock.set_inheritable(False)
        self.slices: list[str] = document["serving"]
        self._answer = document["answer"]
        os.set_inheritable(self._answer, False)

    def serving(self) -> None:
        """Tell it to go."""
        self._say({"serving": True})

    def failed(self, reason: str) -> None:
        """Tell it why it has to go on."""
        self._say({"failed": reason[: ANSWER_BYTES_MAX // 8]})

    def _say(self, document: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended meanwhile, or waited too long
            os.write(self._answer, json.dumps(document).encode() + b"\n")
        os.close(self._answer)


def predecessor() -> Predecessor | None:
    """Return the gateway that started this process to be replaced by it, once; None without one."""
    text = os.environ.pop(VARIABLE, None)
    return None if text is None else Predecessor(json.loads(text))


async def start_successor(
    doors: Mapping[str, Sequence[Sequence[int]]], admin: list[int], slices: list[str]
) -> int:
    """
    Start the gateway anew, and return its process id when it serves.

    Args:
        doors, admin: See Predecessor.
        slices: Names of those that take work here, and so should there.

    Raises:
        UpgradeError: It does not; it has ended.
    """
    if os.getpid() == _FIRST:
        raise UpgradeError("it is the first process of a container, which would end with it")
    reader, writer = os.pipe()
    document = json.dumps({"doors": doors, "admin": admin, "answer": writer, "serving": slices})
    try:
        process = await asyncio.to_thread(_start, document, [*flat(doors), *admin, writer])
    except OSError as error:
        os.close(reader)
        raise UpgradeError(f"a new one cannot be started: {error}") from None
    finally:
        os.close(writer)
    log.info("successor.started", pid=process.pid)
    try:
        answer = await _answer(reader)
    except TimeoutError:
        answer = {"failed": f"the new one did not serve within {READY_S:g} s"}
    except BaseException:  # we are told to stop, and our successor with us
        process.terminate()
        raise
    if "serving" in answer:
        return process.pid
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    code = await asyncio.to_thread(_end, process)
    raise UpgradeError(
        answer.get("failed") or f"the new one ended with exit code {code}; its last lines say why"
    )


def _start(document: str, inherited: list[int]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 (our own command line)
        [sys.executable, *sys.orig_argv[1:]],
        pass_fds=inherited,
        env={**os.environ, VARIABLE: document},
    )


def _end(process: "subprocess.Popen[bytes]") -> int:
    try:
        return process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


async def _answer(number: int) -> dict[str, Any]:
    """Return what the successor says; nothing when it ends without a word."""
    stream = asyncio.StreamReader(limit=ANSWER_BYTES_MAX)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(number, "rb")
    )
    try:
        async with asyncio.timeout(READY_S):
            line = await stream.readline()
    finally:
        transport.close()
    answer: dict[str, Any] = json.loads(line) if line else {}
    return answer


def notify_service_manager() -> None:
    """Tell systemd (`Type=notify`, `NotifyAccess=all`) that this process is the service now."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(f"READY=1\nMAINPID={os.getpid()}".encode(), address.replace("@", "\0", 1))
        except OSError as error:
            log.warning("service_manager.not_told", address=address, reason=str(error))
