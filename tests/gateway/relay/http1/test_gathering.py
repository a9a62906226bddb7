"""Requests over HTTP/1.1 that wait for their body: composed calls, and inferences of a sequence."""

import asyncio
import gzip
import json
from typing import Any, ClassVar

import pytest

from gateway.fleet.health import Order
from gateway.limits import Limits
from gateway.relay.composed import ComposedCalls
from tests.gateway.relay.http1.stage import OK, Stage, took

STATS = b"GET /v2/models/stats HTTP/1.1\r\nHost: a\r\n\r\n"


def post(target: str, body: bytes, *headers: str, chunked: int = 0) -> bytes:
    lines = [f"POST {target} HTTP/1.1", "Host: a", *headers]
    if chunked:
        lines.append("Transfer-Encoding: chunked")
        pieces = [body[at : at + chunked] for at in range(0, len(body), chunked)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    else:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def infer(key: Any, *, start: bool = False, end: bool = False, tail: bytes = b"", **how: Any):
    parameters = {"sequence_id": key, "sequence_start": start, "sequence_end": end}
    text = json.dumps({"inputs": [], "parameters": parameters}).encode()
    length = f"Inference-Header-Content-Length: {len(text)}"
    return post("/v2/models/m/infer", text + tail, *([length] if tail else []), **how)


@pytest.fixture
def stage():
    made = Stage("a", "b", "c")
    made.fleet.registry.sequences.follow("m", 1.0)
    yield made
    made.run()
    assert made.idle


def has(stage: Stage) -> list[tuple[str, bytes]]:
    """Return (slice, bytes) of every request that slices have got since this was last asked."""
    stage.run()
    found = []
    for name in "abc":
        for connection in stage.connections.get(stage.port(name), []):
            data = took(connection)
            if data:
                found.append((name, data, connection))
    return found


def serve(stage: Stage) -> str:
    ((name, _, connection),) = has(stage)
    connection.sends(OK)
    return name


def sends(stage: Stage, client: Any, data: bytes, pieces: int = 1) -> str:
    step = -(-len(data) // pieces)
    for at in range(0, len(data), step):
        client.sends(data[at : at + step])
        stage.run()
    name = serve(stage)
    assert took(client).startswith(b"HTTP/1.1 200")
    return name


def table(stage: Stage):
    return stage.fleet.registry.sequences.by_model["m"]


@pytest.mark.parametrize("how", [{}, {"chunked": 7}, {"tail": b"\0" * 50_000}], ids=str)
@pytest.mark.parametrize("pieces", [1, 3, 40])
def test_a_sequence_stays_where_it_began(stage, how, pieces):
    client = stage.client()
    homes = {k: sends(stage, client, infer(k, start=True, **how), pieces) for k in (1, 2, "1")}
    assert sorted(homes.values()) == ["a", "b", "c"]
    for _ in range(2):
        for key, home in homes.items():
            assert sends(stage, stage.client(), infer(key, **how), pieces) == home
    for key, home in homes.items():
        assert sends(stage, client, infer(key, end=True, **how), pieces) == home
    assert not table(stage).live


def test_a_compressed_request(stage):
    client = stage.client()
    whole = infer(5, start=True, tail=b"\0" * 1000)
    head, body = whole.split(b"\r\n\r\n", 1)
    length = head.partition(b"Inference-Header-Content-Length: ")[2].partition(b"\r\n")[0].decode()
    packed = post(
        "/v2/models/m/infer", gzip.compress(body), "Content-Encoding: gzip",
        f"Inference-Header-Content-Length: {length}",
    )  # fmt: skip
    home = sends(stage, client, packed)
    assert sends(stage, client, infer(5)) == home


def test_the_request_goes_on_as_soon_as_its_sequence_is_known(stage):
    client = stage.client()
    data = infer(5, start=True, tail=b"x" * 100_000)
    client.sends(data[:2000])
    ((_, seen, connection),) = has(stage)
    assert seen == data[:2000]
    client.sends(data[2000:])
    stage.run()
    connection.sends(OK)
    assert took(client).startswith(b"HTTP/1.1 200")
    assert not table(stage).live[int, 5].in_flight


def test_a_request_of_a_sequence_is_not_sent_twice(stage):
    client = stage.client()
    sends(stage, client, infer(5, start=True))
    client.sends(infer(5))
    ((_, _, connection),) = has(stage)
    connection.resets()
    answer = took(client)
    assert answer.startswith(b"HTTP/1.1 502")
    assert b"its sequence cannot go on elsewhere; start it again" in answer
    assert not has(stage)


def test_a_disabled_slice_brings_its_sequences_to_their_end(stage):
    client = stage.client()
    home = sends(stage, client, infer(5, start=True))
    member = stage.fleet.registry.slices[home]
    stage.fleet.registry.order(member, Order.DISABLED, "test")
    stage.stocks.close_slice(member)
    assert sends(stage, client, infer(6, start=True)) != home
    assert sends(stage, client, infer(5, end=True)) == home


def test_a_client_that_leaves_does_not_leave_its_sequence_busy(stage):
    client = stage.client()
    client.sends(infer(5, start=True))
    ((_, _, connection),) = has(stage)
    client.resets()
    stage.run()
    assert not table(stage).live[int, 5].in_flight
    connection.sends(OK)


def test_other_models_take_the_short_path_and_are_not_looked_into():
    stage = Stage("a", "b", "c")
    client = stage.client()
    client.sends(post("/v2/models/m/infer", b"no json at all"))
    assert serve(stage) == "a"
    assert took(client).startswith(b"HTTP/1.1 200")


# --- composed calls ------------------------------------------------------------------------------


class Answer:
    status = 200
    headers: ClassVar = [(b"Content-Type", b"application/json"), (b"X-Said", b"a\r\nb")]
    body = b'{"composed": true}'


class ScriptedComposer:
    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.open = asyncio.Event()
        self.open.set()

    async def http(self, method, target, headers, body):
        self.asked.append((method, target, headers, body))
        await self.open.wait()
        return Answer()


class Composed:
    """A stage whose composed calls run on a real event loop, turned by `turn`."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.stage = Stage("a", limits=limits)
        self.composer = self.stage.core.composer = ScriptedComposer()
        self.stage.core.composed = ComposedCalls(self.loop)

    def turn(self) -> None:
        for _ in range(4):
            self.loop.run_until_complete(asyncio.sleep(0))
            self.stage.run()


@pytest.fixture
def composed():
    made: list[Composed] = []

    def make(**options: Any) -> Composed:
        made.append(Composed(**options))
        return made[-1]

    yield make
    for each in made:
        each.turn()
        assert not len(each.stage.core.composed)
        assert each.stage.idle
        each.loop.close()


def test_a_request_is_handed_over_and_answered_and_the_connection_goes_on(composed):
    world = composed()
    client = world.stage.client()
    client.sends(STATS + STATS)  # pipelined
    world.turn()
    answers = took(client)
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert answers.endswith(Answer.body)
    assert b"X-Said: a  b\r\n" in answers
    assert world.composer.asked[0][:2] == ("GET", "/v2/models/stats")


@pytest.mark.parametrize("chunked", [0, 5])
def test_a_body_is_collected_whole(composed, chunked):
    world = composed()
    client = world.stage.client()
    for at, data in enumerate([b"{}", b"x" * 300_000]):
        request = post("/v2/repository/models/m/load", data, "X-Key: v", chunked=chunked * 1000)
        for start in range(0, len(request), 50_000):
            client.sends(request[start : start + 50_000])
        world.turn()
        assert took(client).startswith(b"HTTP/1.1 200")
        _, _, headers, body = world.composer.asked[at]
        assert body == data
        assert (b"X-Key", b"v") in headers


def test_a_compressed_body_is_opened(composed):
    world = composed()
    client = world.stage.client()
    target = "/v2/repository/models/m/load"
    client.sends(post(target, gzip.compress(b"{}"), "Content-Encoding: gzip"))
    world.turn()
    assert world.composer.asked[0][3] == b"{}"
    took(client)
    client.sends(post(target, b"nonsense", "Content-Encoding: gzip"))
    world.turn()
    assert took(client).startswith(b"HTTP/1.1 400")


def test_a_client_that_waits_for_100_gets_it(composed):
    world = composed()
    client = world.stage.client()
    head, body = post("/v2/logging", b"{}", "Expect: 100-continue").split(b"{}")[0], b"{}"
    client.sends(head)
    assert took(client) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sends(body)
    world.turn()
    assert took(client).startswith(b"HTTP/1.1 200")


def test_a_client_that_leaves_ends_the_task(composed):
    world = composed()
    world.composer.open.clear()
    client = world.stage.client()
    client.sends(STATS)
    world.turn()
    assert len(world.stage.core.composed) == 1
    client.resets()
    world.stage.run()
    assert len(world.stage.core.composed) == 0


def test_only_so_many_at_once(composed):
    world = composed(limits=Limits(composed_calls=1))
    world.composer.open.clear()
    first, second = world.stage.client(), world.stage.client()
    first.sends(STATS)
    second.sends(STATS)
    world.turn()
    assert took(second).startswith(b"HTTP/1.1 503")
    world.composer.open.set()
    world.turn()
    assert took(first).startswith(b"HTTP/1.1 200")
