"""Everything that is on record goes, and nothing else."""

import asyncio

import pytest

from contract import inventory
from contract.slice_spec import Endpoint, SliceSpec
from launcher import apply, plan, stages
from launcher.errors import GpuError
from launcher.mig import MigCode
from launcher.processes import ProcessRuntime
from launcher.runtime import Handle, ServerSpec
from launcher.state import ServerRecord, State, StateStore
from launcher.teardown import remove_inventory, teardown

MEMBERS = [SliceSpec(f"s{i}", Endpoint("h", 8000 + i), Endpoint("h", 9000 + i)) for i in range(2)]


@pytest.fixture
def store(tmp_path):
    made = StateStore(tmp_path)
    servers = tuple(
        ServerRecord(ServerSpec(member, "/m", ()), Handle(f"mig-{member.name}-5c3e_"), "/x")
        for member in MEMBERS
    )
    path = tmp_path / "slices.json"
    made.begin(State("simulated:a100-40gb", "process", str(path), servers=servers))
    return made


class OneGpu:
    """A partitioner of one GPU on paper."""

    def __init__(self, gpu):
        self._gpus = {gpu.gpu().uuid: gpu}

    def uncut(self, store):
        apply.uncut(self._gpus, store)


def cut(gpu, store, layout):
    facts = apply.read_facts(gpu)
    made = plan.make([facts], {facts.gpu.uuid: (layout,)}, plan.Addresses("h", 8000))
    apply.cut({facts.gpu.uuid: gpu}, [stages.whole(part) for part in made.gpus], store)
    return OneGpu(gpu)


async def test_inventory_instances_and_state_go(store, a100, tmp_path):
    partitioner = cut(a100, store, "all-1g")
    inventory.save(tmp_path / "slices.json", MEMBERS)
    await teardown(store, partitioner, ProcessRuntime(), 1.0, asyncio.Event())
    assert a100.gpu_instances() == ()
    assert a100.mig_mode() == (True, True)  # it was on before
    assert not (tmp_path / "slices.json").exists()
    assert not store.path.exists()


async def test_what_cannot_be_removed_stays_on_record(store, a100):
    partitioner = cut(a100, store, "1g")
    a100.faults["destroy_gpu_instance"] = [MigCode.UNKNOWN]
    with pytest.raises(GpuError):
        await teardown(store, partitioner, ProcessRuntime(), 1.0, asyncio.Event())
    again = StateStore(store.path.parent)
    assert len(again.load().instances) == 1
    await teardown(again, partitioner, ProcessRuntime(), 1.0, asyncio.Event())
    assert a100.gpu_instances() == ()


@pytest.mark.parametrize("theirs", ['{"version": 1, "slices": []}', "not JSON"])
def test_an_inventory_that_somebody_else_wrote_stays(store, tmp_path, theirs):
    path = tmp_path / "slices.json"
    stranger = SliceSpec("x9", Endpoint("h", 1), Endpoint("h", 2))
    if theirs.startswith("{"):
        inventory.save(path, [stranger])
    else:
        path.write_text(theirs)
    remove_inventory(store.state)
    assert path.exists()


def test_no_inventory_is_no_error(store):
    remove_inventory(store.state)
