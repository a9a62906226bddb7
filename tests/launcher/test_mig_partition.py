"""What an event of a GPU is about, by MIG."""

import pytest

from launcher.mig import GpuEvent, Placement
from launcher.mig_partition import MigPartitioner
from launcher.partition import Affected
from launcher.state import InstanceRecord, State

SIMULATED = "simulated:2xa100-40gb"


@pytest.fixture
def partitioner(tmp_path):
    return MigPartitioner(SIMULATED, tmp_path)


@pytest.mark.parametrize(
    ("place", "slices", "surely"),
    [
        ((7, 0), ("s0",), True),
        ((7, None), ("s0",), True),
        ((9, 0), (), True),  # an instance of somebody else's
        ((None, None), ("s0", "s1"), False),
    ],
)
def test_an_event_is_about_the_slice_on_its_instance_or_all_of_the_gpu(
    partitioner, place, slices, surely
):
    here, there = partitioner.gpus
    at = Placement(0, 1)
    state = State(
        SIMULATED, "process", "/slices.json",
        instances=(
            InstanceRecord("s0", there, "1g.5gb", 19, at, 7, 0, "MIG-0"),
            InstanceRecord("s1", there, "1g.5gb", 19, at, 8, 0, "MIG-1"),
            InstanceRecord("s2", here, "1g.5gb", 19, at, 7, 0, "MIG-2"),
        ),
    )  # fmt: skip
    found = partitioner.affected(GpuEvent(there, 31, *place), state)
    assert found == Affected(1, slices, surely)
