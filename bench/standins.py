"""The slices that every proxy is measured in front of; they are the same for all."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from bench.cells import GRPC_PATH, grpc_response
from bench.processes import Programs, Running, accepts_tcp, answers_http, wait_for
from contract.slice_spec import Endpoint, SliceSpec

ROOT: Final = Path(__file__).resolve().parent.parent
HEALTH_PATH: Final = "/v2/health/live"
READY_PATH: Final = "/v2/health/ready"
"""A gateway answers the other path by itself; this one says that a slice can serve."""
GrpcSlices = Literal["own", "nghttpd"]


def nghttpd_missing() -> list[str]:
    """Return what to install for the gRPC side of the slices, if anything."""
    if shutil.which("nghttpd"):
        return []
    return ["nghttpd plays gRPC slices: install it with `apt-get install nghttp2-server`"]


def start_slices(
    programs: Programs, count: int, cores: Sequence[int], grpc: GrpcSlices
) -> list[SliceSpec]:
    """
    Start `count` stand-in slices and wait until they answer.

    Args:
        programs: Stops them at the end.
        count: Slices, each with an HTTP port and a gRPC port of its own.
        cores: Where they may run.
        grpc: Who plays the gRPC side: `own` is `standin_grpc`, `nghttpd` one process a slice.
    """
    http_ports = [programs.take_port() for _ in range(count)]
    grpc_ports = [programs.take_port() for _ in range(count)]
    arguments = [str(port) for port in http_ports]
    start_http(programs, "standin-http", "bench.standin_http", arguments, http_ports[-1], cores)
    if grpc == "own":
        command = [sys.executable, "-m", "bench.standin_grpc", *map(str, grpc_ports)]
        running = programs.start("standin-grpc", command, cores, cwd=ROOT)
        wait_for(lambda: accepts_tcp(grpc_ports[-1]), running, "listening")
    else:
        answers = _answer_folder(programs.folder / "grpc-answers")
        for port in grpc_ports:
            _start_nghttpd(programs, port, answers, cores)
    return [
        SliceSpec(f"s{i}", Endpoint("127.0.0.1", http), Endpoint("127.0.0.1", grpc_port))
        for i, (http, grpc_port) in enumerate(zip(http_ports, grpc_ports, strict=True))
    ]


def start_http(
    programs: Programs,
    name: str,
    module: str,
    arguments: Sequence[str],
    port: int,
    cores: Sequence[int],
) -> Running:
    """Start a Python module that plays HTTP slices; wait for `port`, the last that it opens."""
    command = [sys.executable, "-m", module, *arguments]
    running = programs.start(name, command, cores, cwd=ROOT)
    wait_for(lambda: answers_http(port, HEALTH_PATH), running, "answering HTTP")
    return running


def _answer_folder(folder: Path) -> Path:
    """Make the folder from which nghttpd answers: a file per path."""
    file = folder / GRPC_PATH.removeprefix("/")
    file.parent.mkdir(parents=True)
    file.write_bytes(grpc_response())
    return folder


def _start_nghttpd(programs: Programs, port: int, answers: Path, cores: Sequence[int]) -> None:
    """
    Start one gRPC slice.

    Its windows are those of our own stand-in, for the same reason; with HTTP/2's initial 64 KiB
    the large cell would measure round trips.
    """
    program = shutil.which("nghttpd")
    assert program, "the caller asks nghttpd_missing() first"
    options = ["--no-tls", "--address=127.0.0.1", "-w20", "-W24", "--trailer=grpc-status: 0"]
    command = [program, *options, f"-d{answers}", str(port)]
    running = programs.start(f"nghttpd-{port}", command, cores)
    wait_for(lambda: accepts_tcp(port), running, "listening")
