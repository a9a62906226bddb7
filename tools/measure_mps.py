"""
Measures inferences per second of N processes on one GPU: by turns, and as MPS shares.

    python -m tools.measure_mps --shares 7 --seconds 10

Needs torch and torchvision with CUDA, and nvidia-cuda-mps-control on PATH. The processes are those
that the launcher would start servers in: each gets the variables that MpsPartitioner gives a server.
Each runs a ResNet-50 with random weights, batch 1, half precision, one request after the other.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from launcher import partitioners
from launcher.config import LauncherConfig
from launcher.state import State, StateStore

WORKER: Final = """
import sys, time, torch, torchvision
model = torchvision.models.resnet50().half().cuda().eval()
image = torch.randn(1, 3, 224, 224, dtype=torch.half, device="cuda")
with torch.inference_mode():
    for _ in range(50):
        model(image)
    torch.cuda.synchronize()
    print("ready", flush=True)
    sys.stdin.readline()
    begin, count, end = time.perf_counter(), 0, time.perf_counter() + float(sys.argv[1])
    while time.perf_counter() < end:
        model(image)
        torch.cuda.synchronize()
        count += 1
    print(count / (time.perf_counter() - begin), flush=True)
"""


def measure(environments: list[dict[str, str]], seconds: float) -> list[float]:
    """Run one worker in each environment, all at once; return each one's inferences per second."""
    workers = [
        subprocess.Popen(  # noqa: S603 - this Python
            [sys.executable, "-c", WORKER, str(seconds)],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]
    rates = []
    for worker in workers:
        assert worker.stdout is not None
        if worker.stdout.readline() != "ready\n":
            raise RuntimeError(f"a worker ended with {worker.wait()}")
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        assert worker.stdout is not None
        rates.append(float(worker.stdout.readline()))
        worker.communicate()
    return rates


def main() -> int:
    """Print the three figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", default="mps:0")
    parser.add_argument("--shares", default="7")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    gpu = partitioners.resolve(options.gpu)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = StateStore(folder)
        store.begin(State(gpu, "process", str(folder / "slices.json")))
        partitioner = partitioners.open_partitioner(gpu, folder)
        config = LauncherConfig(gpu=options.gpu, shares=options.shares)
        division = partitioner.divide(config, store.state, force=False, enable_mig=False)
        (stage,) = division.stages
        count = len(stage.coming)
        alone = measure([{}], options.seconds)
        by_turns = measure([{}] * count, options.seconds)
        try:
            devices = partitioner.cut(stage.work, store)
            bound = [dict(devices[member.name].environment) for member in stage.coming]
            shares = measure(bound, options.seconds)
        finally:
            partitioner.uncut(store)
            partitioner.close()
    figures = {"alone": alone, "by_turns": by_turns, "mps": shares}
    for what, rates in figures.items():
        each = ", ".join(f"{rate:.0f}" for rate in rates)
        sys.stdout.write(f"{what}: {sum(rates):.0f} inferences/s ({each})\n")
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
