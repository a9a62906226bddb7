"""The built-in load keeps its promise of how many are outstanding, and counts what came back."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from contract.slice_spec import Endpoint
from gateway.figures.crew import Crew
from gateway.figures.load import Load
from gateway.flowers.asking import AskError

SERVICE_S = 0.02
METADATA = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 3, 4]}]}


class Model:
    """One server with one instance, which takes SERVICE_S for each request."""

    def __init__(self) -> None:
        self.metadata = METADATA
        self.served = 0
        self.waiting = 0
        self.most = 0
        self.bodies: set[int] = set()
        self._instance = asyncio.Lock()
        app = web.Application()
        app.add_routes(
            [
                web.get("/v2/models/m", self._metadata),
                web.get("/v2/models/m/stats", self._statistics),
                web.post("/v2/models/m/infer", self._infer),
            ]
        )
        self.server = TestServer(app)

    async def _metadata(self, _request: web.Request) -> web.Response:
        return web.json_response(self.metadata)

    async def _statistics(self, _request: web.Request) -> web.Response:
        stage = {"count": self.served, "ns": self.served * int(SERVICE_S * 1e9)}
        none = {"count": 0, "ns": 0}
        stages = {"queue": none, "compute_input": none, "compute_infer": stage}
        entry = {"inference_stats": {**stages, "compute_output": none}}
        return web.json_response({"model_stats": [entry]})

    async def _infer(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.add(len(body) - int(request.headers["Inference-Header-Content-Length"]))
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        async with self._instance:
            await asyncio.sleep(SERVICE_S)
        self.waiting -= 1
        self.served += 1
        return web.Response(body=b"{}")


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    model = Model()
    await model.server.start_server()
    yield model
    await model.server.close()


@pytest.mark.parametrize("processes", [1, 3])
async def test_a_closed_loop_fills_one_server_and_waits_for_its_turn(
    model: Model, processes: int
) -> None:
    there = Endpoint("127.0.0.1", model.server.port or 0)
    crew = Crew(processes, there, "m", over_grpc=False)
    await crew.open()
    one = await crew.measure(1, [there], [there], 0.5)
    four = await crew.measure(1, [there] * 4, [there], 0.5)
    await crew.close()
    assert model.most == 4
    assert model.bodies == {4 * 3 * 4}, "an open batch is one"
    # However slow this machine is, it is not faster than the model, and four wait for each other.
    assert one.p50_us >= 1e6 * SERVICE_S
    assert four.p50_us >= 3 * 1e6 * SERVICE_S
    assert 0 < four.throughput <= 1.3 / SERVICE_S
    assert one.infer_us == pytest.approx(1e6 * SERVICE_S)
    assert (one.failed, four.failed) == (0, 0)
    assert 0 < four.load_cpu < 1


async def test_straight_to_the_slices_each_gets_its_share(model: Model) -> None:
    other = Model()
    await other.server.start_server()
    both = [Endpoint("127.0.0.1", one.server.port or 0) for one in (model, other)]
    crew = Crew(1, both[0], "m", over_grpc=False)
    await crew.open()
    point = await crew.measure(2, [both[at % 2] for at in range(6)], both, 0.5)
    await crew.close()
    await other.server.close()
    assert (model.most, other.most) == (3, 3)
    assert 1 / SERVICE_S < point.throughput <= 2.6 / SERVICE_S
    assert point.infer_us == pytest.approx(1e6 * SERVICE_S)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "X", "datatype": "BYTES", "shape": [1]}, "BYTES"),
        ({"name": "X", "datatype": "FP32", "shape": [1, -1]}, "leaves its size open"),
    ],
)
async def test_an_input_that_cannot_be_made_up_is_said(
    model: Model, entry: dict[str, object], said: str
) -> None:
    model.metadata = {"inputs": [entry]}  # type: ignore[list-item]
    load = Load("m", over_grpc=False)
    with pytest.raises(AskError, match=said):
        await load.open(Endpoint("127.0.0.1", model.server.port or 0))
    await load.close()
