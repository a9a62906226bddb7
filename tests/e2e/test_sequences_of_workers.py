"""
With several workers a sequence stays on its slice, whichever worker its next request comes to.

The worker is the kernel's choice for each connection: the requests of a sequence go in turn over
connections to all of them.
"""

import os
import signal
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from tests.e2e.stack import REPOSITORY, wait_until
from tests.e2e.three import Three
from tests.support.tensors import tensor

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

CONNECTIONS_MAX = 64


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    folder = tmp_path_factory.mktemp("workers")
    made = Three(folder, [REPOSITORY / "tests" / "models"], ["sequence"], workers=2)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def workers(three: Three) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = three.ask("GET", "/v1/workers")[1]["workers"]
    return found


class Senders:
    """Clients of both protocols, each with a connection of its own, some of them to each worker."""

    def __init__(self, three: Three) -> None:
        wait_until(lambda: all(w["state"] == "serving" for w in workers(three)), "both serve")
        self.clients: list[tuple[Any, Any]] = []
        before = [worker["connections"] for worker in workers(three)]

        def reached() -> bool:
            now = [worker["connections"] for worker in workers(three)]
            return all(n >= b + 2 for n, b in zip(now, before, strict=True))

        own = {"channel_args": [("grpc.use_local_subchannel_pool", 1)]}
        while len(self.clients) < 8 or not reached():
            assert len(self.clients) < CONNECTIONS_MAX, workers(three)
            for module, options in ((http_client, {}), (grpc_client, own)):
                client = module.InferenceServerClient(three.address, **options)
                client.is_server_live()  # connects
                self.clients.append((module, client))
        self._turns = cycle(self.clients)

    def send(self, sequence_id: int | str, value: int, marks: str = "") -> int:
        """Send the next request over the next connection; `S` starts, `E` ends."""
        module, client = next(self._turns)
        data = tensor(module, np.array([value], np.int32), "INPUT", "INT32")
        answer = client.infer(
            "sequence", [data], sequence_id=sequence_id, sequence_start="S" in marks,
            sequence_end="E" in marks,
        )  # fmt: skip
        return int(answer.as_numpy("OUTPUT")[0])

    def close(self) -> None:
        for _, client in self.clients:
            client.close()


@pytest.fixture
def senders(three: Three) -> Iterator[Senders]:
    made = Senders(three)
    yield made
    made.close()
    three.repair()


def test_sequences_add_up_over_connections_to_both_workers(three: Three, senders: Senders) -> None:
    ids, before = range(1000, 1030), three.served()
    for turn in range(5):
        for sequence_id in ids:
            total = senders.send(sequence_id, sequence_id + turn, "S" if turn == 0 else "")
            assert total == sum(sequence_id + t for t in range(turn + 1)), (sequence_id, turn)
    for sequence_id in ids:
        assert senders.send(sequence_id, 0, "E") == 5 * sequence_id + 10
    for sequence_id in ids:
        with pytest.raises(InferenceServerException, match="must specify the START flag"):
            senders.send(sequence_id, 1)
    assert all(count > before[name] for name, count in three.served().items())


def test_ids_are_used_again_and_again(senders: Senders) -> None:
    for round_ in range(40):
        assert senders.send(5, round_, "S") == round_
        assert senders.send(5, 1) == round_ + 1
        assert senders.send(5, 1, "E") == round_ + 2


def test_running_sequences_end_on_a_disabled_slice(three: Three, senders: Senders) -> None:
    ids = range(2000, 2012)
    for sequence_id in ids:
        assert senders.send(sequence_id, 1, "S") == 1
    assert three.ask("POST", "/v1/slices/s1/disable")[0] == 200
    before = three.served()["s1"]
    for sequence_id in range(3000, 3012):
        assert senders.send(sequence_id, 1, "SE") == 1
    assert three.served()["s1"] == before, "new ones go elsewhere"
    for sequence_id in ids:
        assert senders.send(sequence_id, 1) == 2
    for sequence_id in ids:
        assert senders.send(sequence_id, 1, "E") == 3
    assert three.served()["s1"] > before, "some of them were its own"


def test_a_killed_slice_fails_only_its_own_sequences(three: Three, senders: Senders) -> None:
    ids = range(4000, 4012)
    for sequence_id in ids:
        senders.send(sequence_id, 1, "S")
    three.kill("s2")
    failed = []
    for sequence_id in ids:
        try:
            assert senders.send(sequence_id, 2, "E") == 3
        except InferenceServerException as error:
            failed.append(str(error))
    assert 0 < len(failed) < len(ids)
    assert all("must specify the START flag" in reason for reason in failed), failed


def test_sequences_outlive_a_worker(three: Three, senders: Senders) -> None:
    """What it has noted stays on the board, for the others and for its successor."""
    ids = range(5000, 5012)
    for sequence_id in ids:
        senders.send(sequence_id, 1, "S")
    victim = workers(three)[0]
    os.kill(victim["pid"], signal.SIGKILL)
    wait_until(lambda: workers(three)[0]["restarts"] > victim["restarts"], "it is replaced")
    after = Senders(three)
    for sequence_id in ids:
        assert after.send(sequence_id, 1) == 2
    for sequence_id in ids:
        assert after.send(sequence_id, 1, "E") == 3
    after.close()
