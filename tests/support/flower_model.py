"""The flower model as its clients see it: Triton's HTTP answer, at once or when a test says so."""

import asyncio

from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.flowers.pictures import TENSOR_BYTES


class Model:
    """
    Answers like the gateway's port.

    Attributes:
        asked: The tensors that came.
        fields: The field by which clients ask for the slice's name.
        error: What it answers instead of classes; "" for classes.
        let_go: Answers wait for it.
    """

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.fields: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.error = ""
        self.let_go = asyncio.Event()
        self.let_go.set()
        app = web.Application(client_max_size=2 * TENSOR_BYTES)
        app.add_routes([web.post("/v2/models/flower/infer", self._infer)])
        self.server = TestServer(app)

    async def _infer(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.asked.append(body[int(request.headers["Inference-Header-Content-Length"]) :])
        self.fields.append(request.headers["mig-gateway-slice"])
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.let_go.wait()
        self.at_once -= 1
        if self.error:
            return web.json_response({"error": self.error}, status=503)
        data = ["0.75:3:rose", "0.2:4:lily", "0.05:5:"]
        return web.json_response(
            {"outputs": [{"name": "probabilities", "data": data}]},
            headers={"mig-gateway-slice": "s3"},
        )
