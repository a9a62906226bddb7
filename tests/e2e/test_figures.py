"""`mig-gateway figures` against the running system: switched, measured, drawn, left as it was."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.stack import REPOSITORY, SLICES, Stack, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def command(stack: Stack, out: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "gateway", "figures", "--built-in", "--url", stack.address,
        "--admin", f"http://{stack.admin}", "--model", "flower", "--seconds", "0.5",
        "--out", str(out), *more,
    ]  # fmt: skip


def figures(stack: Stack, out: Path, *more: str) -> str:
    done = subprocess.run(
        command(stack, out, *more),
        check=False, capture_output=True, text=True, cwd=REPOSITORY, timeout=150,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_slices_are_switched_measured_drawn_and_left_as_they_were(
    stack: Stack, tmp_path: Path, protocol: str
) -> None:
    stack.ask("POST", "/v1/slices/s6/drain")
    before = stack.served()
    more = ["--grpc"] if protocol == "grpc" else []
    figures(stack, tmp_path, "--slices", "1", "--concurrency", "1,2", *more)
    served = {name: count - before[name] for name, count in stack.served().items()}
    assert served["s0"] > 10
    # Before any is switched off, one of them is asked what the model takes.
    assert sum(served[name] for name in SLICES[1:]) <= 1
    orders = {name: view["order"] for name, view in stack.slices().items()}
    assert orders == dict.fromkeys(SLICES, "enabled") | {"s6": "drained"}
    said = figures(stack, tmp_path, "--slices", "1", "--concurrency", "1,2,3", "--direct", *more)
    assert "goes on with 2 points" in said
    document = json.loads((tmp_path / "figures.json").read_text())
    for way in ("points", "direct"):
        assert [entry["concurrency"] for entry in document[way]] == [1, 2, 3]
        assert all(entry["throughput"] > 0 and not entry["failed"] for entry in document[way])
    assert document["conditions"]["versions"]["triton"]
    assert "--direct" in document["command"]
    assert (tmp_path / "direct.png").stat().st_size > 10_000
    assert document["conditions"]["simulated"] is True
    assert "SIMULATED" in (tmp_path / "figures.html").read_text()
    assert (tmp_path / "throughput.png").stat().st_size > 10_000


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_goes_on_and_leaves_the_slices_as_they_were(
    stack: Stack, tmp_path: Path, how: signal.Signals
) -> None:
    """Killed, it can switch nothing back; the next run does."""
    stack.ask("POST", "/v1/slices/s6/drain")
    before = dict.fromkeys(SLICES, "enabled") | {"s6": "drained"}
    more = ["--slices", "1", "--processes", "2", "--concurrency"]
    run = subprocess.Popen(command(stack, tmp_path, *more, "1:50"), cwd=REPOSITORY)
    try:
        wait_until((tmp_path / "figures.json").exists, "a first point")
        run.send_signal(how)
        run.wait(30)
    finally:
        run.kill()
    orders = {name: view["order"] for name, view in stack.slices().items()}
    assert (orders == before) == (how is signal.SIGTERM)
    measured = len(json.loads((tmp_path / "figures.json").read_text())["points"])
    said = figures(stack, tmp_path, *more, f"1:{measured + 1}")
    assert f"goes on with {measured} points" in said
    assert {name: view["order"] for name, view in stack.slices().items()} == before
