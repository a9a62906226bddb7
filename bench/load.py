"""Load generators: wrk for HTTP/1.1, h2load for gRPC-shaped HTTP/2, and what they print."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.cells import Cell
from bench.processes import BenchError, child_setup

MISSING: Final = {
    "wrk": "wrk loads over HTTP/1.1: install it with `apt-get install wrk`",
    "h2load": "h2load loads over gRPC: install it with `apt-get install nghttp2-client`",
    "nghttp": "nghttp checks gRPC answers: install it with `apt-get install nghttp2-client`",
}
_SLACK_S: Final = 30.0
"""How much longer than asked a load generator may take before it is given up."""

# `done` runs once, in wrk's main thread. Latencies are in microseconds.
_WRK_SCRIPT: Final = """\
wrk.method = "POST"
wrk.body = io.open({body}, "rb"):read("*a")
{headers}
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {{"requests": %d, "errors": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d}}\\n',
    summary.requests, e.connect + e.read + e.write + e.timeout + e.status, summary.duration,
    latency:percentile(50.0), latency:percentile(99.0)))
end
"""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """
    What a load generator saw.

    Attributes:
        requests: Answers that came, whatever their status.
        errors: Answers other than 2xx, and failures of connections or streams.
        duration_s: How long requests were sent.
        p50_us: Median of the time to the whole answer. Closed loop: a slow proxy is sent less.
        p99_us: The same, 99th percentile.
    """

    requests: int
    errors: int
    duration_s: float
    p50_us: float
    p99_us: float


def drive(
    cell: Cell, port: int, duration_s: float, folder: Path, cores: Sequence[int], single: bool
) -> LoadResult:
    """
    Send the cell's request to 127.0.0.1:`port` again and again.

    Args:
        cell: What to send, and how many at once.
        port: Where.
        duration_s: For how long; whole seconds, as the tools take no parts of one.
        folder: For scripts and logs.
        cores: Where the load generator may run.
        single: One request at a time, for latencies, instead of the cell's concurrency.

    Raises:
        BenchError: The tool failed, or no request was answered.
    """
    seconds = max(1, round(duration_s))
    if cell.protocol == "http":
        result = _wrk(cell, port, seconds, folder, cores, 1 if single else cell.connections)
    else:
        result = _h2load(cell, port, seconds, folder, cores, single)
    if not result.requests:
        raise BenchError(f"{cell.name}: no request to port {port} was answered")
    return result


def _wrk(
    cell: Cell, port: int, seconds: int, folder: Path, cores: Sequence[int], connections: int
) -> LoadResult:
    script = folder / f"{cell.name}.lua"
    headers = "\n".join(
        f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in cell.headers
    )
    body = json.dumps(str(_body_file(cell, folder)))
    script.write_text(_WRK_SCRIPT.format(body=body, headers=headers))
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--timeout=10s",
        "-s",
        str(script),
    ]
    return parse_wrk(_run([*command, f"http://127.0.0.1:{port}{cell.path}"], seconds, cores))


def parse_wrk(output: str) -> LoadResult:
    """Read the line that our script prints. Raises BenchError when there is none."""
    found = re.search(r"^RESULT (\{.*\})$", output, re.MULTILINE)
    if not found:
        raise BenchError(f"wrk printed no result line:\n{output[-2000:]}")
    fields = json.loads(found[1])
    return LoadResult(
        requests=fields["requests"],
        errors=fields["errors"],
        duration_s=fields["duration_us"] / 1e6,
        p50_us=fields["p50_us"],
        p99_us=fields["p99_us"],
    )


def _h2load(
    cell: Cell, port: int, seconds: int, folder: Path, cores: Sequence[int], single: bool
) -> LoadResult:
    log = folder / "h2load.log"
    log.unlink(missing_ok=True)  # h2load appends
    connections, streams = (1, 1) if single else (cell.connections, cell.streams)
    command = ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}"]
    command += [f"-d{_body_file(cell, folder)}", f"--log-file={log}"]
    for name, value in cell.headers:
        command += ["-H", f"{name}: {value}"]
    output = _run([*command, f"http://127.0.0.1:{port}{cell.path}"], seconds, cores)
    with log.open(encoding="ascii") as lines:
        return parse_h2load(output, lines, float(seconds))


def parse_h2load(output: str, log: Iterable[str], duration_s: float) -> LoadResult:
    """
    Read h2load's summary and its request log.

    With `-D` every client is cut off at the end: the requests then in flight are not in the log,
    and the summary counts them as failed although nobody failed. So failures are what is beyond
    the number in flight, and an answer counts when it is in the log.

    Args:
        output: Standard output.
        log: Lines of `--log-file`: start in us, status (-1: none), time in us; tab-separated.
        duration_s: What `-D` was.
    """
    status = re.search(r"^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output, re.M)
    if not status:
        raise BenchError(f"h2load printed no status codes:\n{output[-2000:]}")
    times_us: list[int] = []
    errors = 0
    for line in log:
        _, code, time_us = line.split("\t")
        if 200 <= int(code) < 300:
            times_us.append(int(time_us))
        else:
            errors += 1
    times_us.sort()
    return LoadResult(
        requests=len(times_us) + errors,
        errors=errors,
        duration_s=duration_s,
        p50_us=percentile(times_us, 0.50),
        p99_us=percentile(times_us, 0.99),
    )


def percentile(ascending: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile; 0.0 of nothing."""
    if not ascending:
        return 0.0
    return float(ascending[min(len(ascending) - 1, int(share * len(ascending)))])


def check_grpc_answer(cell: Cell, port: int, folder: Path) -> None:
    """
    Make one call and look at its trailers, which h2load does not see.

    Raises:
        BenchError: The answer is not 200 with `grpc-status: 0`.
    """
    command = ["nghttp", "--verbose", "--no-dep", f"--data={_body_file(cell, folder)}"]
    for name, value in cell.headers:
        command += ["-H", f"{name}: {value}"]
    output = _run([*command, f"http://127.0.0.1:{port}{cell.path}"], 5, ())
    if complaint := grpc_complaint(output):
        raise BenchError(f"{cell.name} through port {port}: {complaint}\n{output[-2000:]}")


def grpc_complaint(output: str) -> str | None:
    """Say what is wrong with the answer that `nghttp --verbose` shows; None when nothing is."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", output)
    fields = dict(re.findall(r"recv \(stream_id=\d+\) (:?[a-z-]+): (.*)", text))
    if fields.get(":status") != "200":
        return f"the answer's status is {fields.get(':status', 'missing')}, expected 200"
    if fields.get("grpc-status") != "0":
        return f"grpc-status is {fields.get('grpc-status', 'missing')}, expected 0"
    return None


def missing_tools(cells: Iterable[Cell]) -> list[str]:
    """Return a sentence for each load generator that these cells need and that is not there."""
    protocols = {cell.protocol for cell in cells}
    needed = (["wrk"] if "http" in protocols else []) + (
        ["h2load", "nghttp"] if "grpc" in protocols else []
    )
    return [MISSING[tool] for tool in needed if shutil.which(tool) is None]


def _body_file(cell: Cell, folder: Path) -> Path:
    file = folder / f"{cell.name}.body"
    if not file.exists():
        file.write_bytes(cell.body)
    return file


def _run(command: Sequence[str], seconds: int, cores: Sequence[int]) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",  # nghttp prints the answer itself, which is protobuf
            timeout=seconds + _SLACK_S,
            check=False,
            preexec_fn=child_setup(cores),
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{command[0]} did not end in {error.timeout:.0f} s") from error
    if done.returncode:
        raise BenchError(f"{command[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout
