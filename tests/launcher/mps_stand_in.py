#!/usr/bin/env python3
"""
A stand-in for nvidia-cuda-mps-control: a daemon in the foreground with `-f`, and its front end, which
reads commands. Where NVIDIA's refuses, it does: no pipe folder, no daemon, a second daemon.
"""

import os
import socket
import sys
from pathlib import Path


def main() -> int:
    folder = Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
    if not folder.is_dir():
        print("Cannot access the pipe directory", file=sys.stderr)
        return 1
    control = folder / "control"
    return daemon(control) if sys.argv[1:] == ["-f"] else front_end(control)


def daemon(control: Path) -> int:
    if os.environ.get("MPS_STAND_IN_FAILS"):
        print("An instance of this daemon is already running")
        return 1
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(control))
        listening.listen()
        Path(os.environ["CUDA_MPS_LOG_DIRECTORY"], "control.log").write_text(
            f"Start {os.environ['CUDA_VISIBLE_DEVICES']}\n"
        )
        while True:
            with listening.accept()[0] as caller:
                command = caller.recv(1000).decode().strip()
                if command == "quit" and os.environ.get("MPS_STAND_IN_STUBBORN"):
                    continue
                if command == "quit":
                    control.unlink()
                    return 0


def front_end(control: Path) -> int:
    try:
        with socket.socket(socket.AF_UNIX) as calling:
            calling.connect(str(control))
            calling.send(sys.stdin.read().encode())
    except OSError:
        print("Cannot find MPS control daemon process", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
