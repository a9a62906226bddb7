"""
The built-in load shared out to several processes, and what came of it as one point.

One process of this load moves a gigabyte or two a second, which is less than a fast GPU asks for.
"""

import asyncio
import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any, Final

import uvloop

from contract.slice_spec import Endpoint
from gateway.figures.load import Load, Taken, get
from gateway.figures.points import Point
from gateway.flowers.asking import AskError, HttpLink

RAMP: Final = 0.2
"""Share of the time that is let pass before answers count: the queues fill first."""
_STAGES: Final = ("queue", "compute_input", "compute_infer", "compute_output")
_STOP_S: Final = 10.0

Order = tuple[Sequence[Endpoint], float, float]
"""The arguments of Load.run; None ends the process."""


class Crew:
    """
    Measures points.

    Args:
        processes: That send; 1 is this one.
        metadata_at: Who is asked what the model takes, over HTTP.

    Raises:
        AskError: The model is not there, or has inputs that cannot be made up.
    """

    def __init__(
        self, processes: int, metadata_at: Endpoint, model: str, *, over_grpc: bool
    ) -> None:
        self._model = model
        self._metadata_at = metadata_at
        self._load = Load(model, over_grpc=over_grpc)
        spawn = multiprocessing.get_context("spawn")  # a fork would copy grpcio's threads half
        self._others: list[tuple[Any, Connection]] = []
        for _ in range(processes - 1):
            ours, theirs = spawn.Pipe()
            arguments = (theirs, metadata_at, model, over_grpc)
            process = spawn.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._others.append((process, ours))

    async def open(self) -> None:
        """Return when everybody can begin."""
        await self._load.open(self._metadata_at)
        for _, pipe in self._others:
            _expect(await asyncio.to_thread(pipe.recv))

    async def close(self) -> None:
        await self._load.close()
        for process, pipe in self._others:
            try:
                pipe.send(None)
            except OSError:
                pass  # it has ended already, as with Ctrl-C, which the terminal tells it too
            await asyncio.to_thread(process.join, _STOP_S)
            if process.is_alive():
                process.kill()

    async def measure(
        self, slices: int, targets: Sequence[Endpoint], statistics_at: Sequence[Endpoint],
        seconds: float,
    ) -> Point:  # fmt: skip
        """
        Keep one request outstanding at each of `targets`, and return what came of them.

        Args:
            slices: How many are enabled.
            statistics_at: Who tells the model's statistics, over HTTP; they are added up.
        """
        begins_s = monotonic() + RAMP * seconds
        parts = [targets[at :: len(self._others) + 1] for at in range(len(self._others) + 1)]
        before = await self._statistics(statistics_at)
        asked = [
            (pipe, part)
            for (_, pipe), part in zip(self._others, parts[1:], strict=True)
            if part  # fewer requests than processes
        ]
        for pipe, part in asked:
            pipe.send((part, begins_s, seconds))
        taken = [await self._load.run(parts[0], begins_s, seconds)]
        for pipe, _ in asked:
            found = _expect(await asyncio.to_thread(pipe.recv))
            assert isinstance(found, Taken), "an order is answered with what was taken"
            taken.append(found)
        after = await self._statistics(statistics_at)
        return _point(slices, len(targets), begins_s, taken, _stages(before, after))

    async def _statistics(self, endpoints: Sequence[Endpoint]) -> dict[str, tuple[int, int]]:
        """Return (count, ns) of each stage, all slices' together: the gateway adds them up."""
        totals = dict.fromkeys(_STAGES, (0, 0))
        for endpoint in endpoints:
            link = HttpLink(endpoint)
            try:
                document = await get(link, f"/v2/models/{self._model}/stats")
            finally:
                link.close()
            for entry in document["model_stats"]:
                for stage in _STAGES:
                    found = entry["inference_stats"][stage]
                    count, ns = totals[stage]
                    totals[stage] = count + found["count"], ns + found["ns"]
        return totals


def _expect(answer: Taken | str | None) -> Taken | None:
    if isinstance(answer, str):
        raise AskError(answer)
    return answer


def _serve(pipe: Connection, metadata_at: Endpoint, model: str, over_grpc: bool) -> None:
    """Carry out orders until there are no more; the body of a process."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        load = Load(model, over_grpc=over_grpc)
        try:
            runner.run(load.open(metadata_at))
            pipe.send(None)
            while (order := pipe.recv()) is not None:
                pipe.send(runner.run(load.run(*order)))
            runner.run(load.close())
        except AskError as error:
            pipe.send(str(error))
        except (EOFError, OSError, KeyboardInterrupt):
            pass  # the command has gone, or is going


def _point(
    slices: int, concurrency: int, begins_s: float, taken: Sequence[Taken],
    stages: tuple[float, ...],
) -> Point:  # fmt: skip
    took_s = sorted(one for part in taken for one in part.took_s)
    last_s = max(part.last_s for part in taken)
    mean_us = 1e6 * sum(took_s) / len(took_s) if took_s else 0.0
    return Point(
        slices=slices,
        concurrency=concurrency,
        throughput=len(took_s) / (last_s - begins_s) if took_s else 0.0,
        failed=sum(part.failed for part in taken),
        p50_us=_percentile_us(took_s, 0.50),
        p90_us=_percentile_us(took_s, 0.90),
        p95_us=_percentile_us(took_s, 0.95),
        p99_us=_percentile_us(took_s, 0.99),
        network_us=max(0.0, mean_us - sum(stages)),
        queue_us=stages[0],
        input_us=stages[1],
        infer_us=stages[2],
        output_us=stages[3],
        load_cpu=round(max(part.cpu for part in taken), 3),
    )


def _stages(
    before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]
) -> tuple[float, ...]:
    """Return the mean of each stage in microseconds."""
    means = []
    for stage in _STAGES:
        count = after[stage][0] - before[stage][0]
        means.append((after[stage][1] - before[stage][1]) / count / 1e3 if count > 0 else 0.0)
    return tuple(means)


def _percentile_us(ascending: list[float], share: float) -> float:
    if not ascending:
        return 0.0
    return 1e6 * ascending[min(len(ascending) - 1, int(share * len(ascending)))]
