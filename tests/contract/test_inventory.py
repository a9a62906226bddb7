"""The inventory is read as it was written, or refused with its place."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import inventory
from contract.inventory import InventoryError
from contract.slice_spec import Endpoint, Place, SliceSpec

FULL = SliceSpec(
    name="s0",
    http=Endpoint("127.0.0.1", 8000),
    grpc=Endpoint("127.0.0.1", 8001),
    metrics=Endpoint("127.0.0.1", 8002),
    weight=3.0,
    mig_uuid="MIG-1",
    profile="3g.20gb",
    simulated=True,
    place=Place("GPU-1", "NVIDIA A100-SXM4-40GB", 4, 4, 8),
)
LEAST = SliceSpec(name="s1", http=Endpoint("::1", 1), grpc=Endpoint("::1", 2))


def test_what_was_saved_is_loaded(tmp_path):
    path = tmp_path / "slices.json"
    inventory.save(path, [FULL, LEAST])
    assert inventory.load(path) == (FULL, LEAST)
    assert json.loads(path.read_text())["simulated"] is True


def test_no_inventory_yet_is_another_thing_than_a_broken_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        inventory.load(tmp_path / "none")
    with pytest.raises(InventoryError, match="cannot be read"):
        inventory.load(tmp_path)


def test_keys_of_a_newer_launcher_are_ignored():
    document = json.loads(inventory.dump([FULL]))
    document["colour"] = document["slices"][0]["colour"] = "green"
    assert inventory.parse(json.dumps(document).encode(), "x") == (FULL,)


def entry(**changes):
    document = json.loads(inventory.dump([FULL, LEAST]))
    document["slices"][1].update(changes)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "x: not JSON"),
        (b"[]", "x: version is 'list'"),
        (b'{"version": 2}', "x: version is 2, this program reads 1"),
        (b'{"version": 1, "slices": 1}', "slices must be a list"),
        (b'{"version": 1, "slices": [1]}', r"slices\[0\]: must be an object, not int"),
        (entry(name="s0"), "two slices are named 's0'"),
        (entry(place=3), r"slices\[1\]: place is 3"),
        (entry(place={"gpu": "G"}), r"slices\[1\]: start is None"),
        (
            entry(place={"gpu": "G", "start": 4, "size": 5, "slots": 8}),
            r"slices\[1\]: place 4:5 of 8 memory slices",
        ),
        (entry(name=None), r"slices\[1\]: name is None"),
        (entry(http="nowhere"), r"slices\[1\]: 'nowhere' is not host:port"),
        (entry(weight=True), r"slices\[1\]: weight is True"),
        (entry(weight=-1), "weight is -1"),
        (entry(simulated="yes"), "simulated is 'yes'"),
        (entry(metrics=7), r"slices\[1\]"),
    ],
)
def test_what_is_no_inventory_is_refused_with_its_place(data, words):
    with pytest.raises(InventoryError, match=words):
        inventory.parse(data, "x")


def test_a_file_without_end_is_not_read_to_the_end(tmp_path):
    path = tmp_path / "slices.json"
    path.write_bytes(b" " * (inventory.FILE_BYTES_MAX + 1))
    with pytest.raises(InventoryError, match="larger than"):
        inventory.load(path)


@given(st.binary())
def test_any_bytes_are_an_inventory_or_an_inventory_error(data):
    try:
        inventory.parse(data, "x")
    except InventoryError:
        pass


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["name", "http"]), inner),
    )
)
def test_any_json_is_too(slices):
    data = json.dumps({"version": 1, "slices": slices}).encode()
    try:
        inventory.parse(data, "x")
    except InventoryError:
        pass
