"""The model repositories in a real Triton server, through its own client libraries."""

import queue
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from tests.models_spec.bare_triton import BareTriton, bare_triton
from tools.flower.draw import UNSEEN_SEEDS, picture
from tools.flower.species import species

ROOT = Path(__file__).parents[2]
MIB = 1 << 20

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareTriton]:
    repositories = [ROOT / "configs" / "models", ROOT / "tests" / "models"]
    with bare_triton(repositories, tmp_path_factory.mktemp("triton")) as server:
        yield server


@pytest.fixture(params=["http", "grpc"])
def protocol(request: pytest.FixtureRequest):
    """tritonclient's module of one protocol: both have the same classes."""
    return getattr(tritonclient, request.param)


@pytest.fixture
def client(triton, protocol):
    url = triton.http if protocol is tritonclient.http else triton.grpc
    with protocol.InferenceServerClient(url) as client:
        yield client


def tensor(protocol, name, array, kind):
    made = protocol.InferInput(name, list(array.shape), kind)
    made.set_data_from_numpy(array)
    return made


def names(classes: np.ndarray) -> list[str]:
    """Return the labels in answers of the form `score:index:label`."""
    return [entry.decode().split(":")[2] for entry in classes]


@pytest.mark.parametrize("class_index", [0, 53, 101])
def test_the_flower_model_names_its_three_best_guesses(client, protocol, class_index):
    """The classification extension sorts by score and takes names from the label file."""
    given = tensor(protocol, "input", picture(class_index, UNSEEN_SEEDS)[None], "FP32")
    wanted = protocol.InferRequestedOutput("probabilities", class_count=3)
    result = client.infer("flower", [given], outputs=[wanted])
    guesses = result.as_numpy("probabilities")
    assert guesses.shape == (1, 3)
    assert names(guesses[0])[0] == species()[class_index].name
    assert set(names(guesses[0])) <= {member.name for member in species()}


def test_the_flower_model_takes_eight_pictures_in_one_request(client, protocol):
    batch = np.stack([picture(index, UNSEEN_SEEDS) for index in range(8)])
    result = client.infer("flower", [tensor(protocol, "input", batch, "FP32")])
    probabilities = result.as_numpy("probabilities")
    assert probabilities.shape == (8, 102)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("size", [0, 1, 100_000, 100 * MIB])
def test_the_identity_model_returns_its_bytes(client, protocol, size):
    content = np.resize(np.arange(251, dtype=np.uint8), size)
    result = client.infer("identity", [tensor(protocol, "INPUT0", content, "UINT8")])
    assert np.array_equal(result.as_numpy("OUTPUT0"), content)


def test_the_slow_model_waits_as_long_as_asked(client, protocol):
    content = np.arange(5, dtype=np.uint8)
    given = tensor(protocol, "INPUT0", content, "UINT8")
    result = client.infer("slow", [given], parameters={"delay_ms": 300})
    assert np.array_equal(result.as_numpy("OUTPUT0"), content)
    statistics = client.get_inference_statistics("slow", **as_json(protocol))
    spent = statistics["model_stats"][0]["inference_stats"]["compute_infer"]["ns"]
    assert int(spent) >= 300_000_000


def as_json(protocol) -> dict[str, bool]:
    return {"as_json": True} if protocol is tritonclient.grpc else {}


def test_the_sequence_model_adds_up(client, protocol):
    identifier = 71 if protocol is tritonclient.grpc else 72
    sums = []
    for value in (3, 4, 5):
        given = tensor(protocol, "INPUT", np.array([value], np.int32), "INT32")
        result = client.infer(
            "sequence",
            [given],
            sequence_id=identifier,
            sequence_start=value == 3,
            sequence_end=value == 5,
        )
        sums.append(int(result.as_numpy("OUTPUT")[0]))
    assert sums == [3, 7, 12]


def test_the_repeat_model_answers_many_times(triton):
    answers: queue.SimpleQueue = queue.SimpleQueue()
    values = np.array([10, 20, 30], np.int32)
    with tritonclient.grpc.InferenceServerClient(triton.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        inputs = [
            tensor(tritonclient.grpc, "IN", values, "INT32"),
            tensor(tritonclient.grpc, "DELAY", np.array([0, 20, 0], np.uint32), "UINT32"),
        ]
        client.async_stream_infer("repeat", inputs)
        received = [answers.get(timeout=20) for _ in values]
        client.stop_stream()
    assert [error for _, error in received] == [None, None, None]
    assert [int(result.as_numpy("OUT")[0]) for result, _ in received] == [10, 20, 30]
    assert [int(result.as_numpy("IDX")[0]) for result, _ in received] == [0, 1, 2]
