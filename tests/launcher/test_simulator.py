"""The simulated GPU does what NVML and NVIDIA's driver do."""

import os
import subprocess
import sys
import uuid

import pytest

from launcher.errors import GpuError
from launcher.mig import MigCode, MigError, Placement
from launcher.profiles import BOARDS
from launcher.simulator import Simulator, environment_holders

IDS = {"1g": 19, "2g": 14, "3g": 9, "4g": 5, "7g": 0, "1g+me": 20, "1g double": 15}
BASE = ("1g", "2g", "3g", "4g", "7g")

# All maximal layouts of an A100 from NVIDIA's placements, base profiles: profile@start.
MAXIMAL = """
7g@0
4g@0 3g@4
4g@0 2g@4 1g@6
4g@0 1g@4 1g@5 1g@6
3g@0 3g@4
3g@0 2g@4 1g@6
3g@0 1g@4 1g@5 1g@6
2g@0 2g@2 3g@4
2g@0 1g@2 1g@3 3g@4
1g@0 1g@1 2g@2 3g@4
1g@0 1g@1 1g@2 1g@3 3g@4
2g@0 2g@2 2g@4 1g@6
2g@0 2g@2 1g@4 1g@5 1g@6
2g@0 1g@2 1g@3 2g@4 1g@6
2g@0 1g@2 1g@3 1g@4 1g@5 1g@6
1g@0 1g@1 2g@2 2g@4 1g@6
1g@0 1g@1 2g@2 1g@4 1g@5 1g@6
1g@0 1g@1 1g@2 1g@3 2g@4 1g@6
1g@0 1g@1 1g@2 1g@3 1g@4 1g@5 1g@6
"""


def fresh(path, board="a100-40gb", **options):
    gpu = Simulator(path / f"{board}.json", BOARDS[board], holders=lambda _: (), **options)
    gpu.set_mig_mode(True)
    return gpu


def refusal(call, *arguments):
    with pytest.raises(MigError) as caught:
        call(*arguments)
    return caught.value.code


def try_to_create(gpu, profile_id, placement):
    try:
        return gpu.create_gpu_instance(profile_id, placement)
    except MigError as error:
        if error.code is MigCode.INSUFFICIENT_RESOURCES:
            return None
        raise


def maximal_layouts(gpu, profile_ids):
    """Walk every order of creation on the real simulator; return the layouts that end a walk."""
    name_of = {number: name for name, number in IDS.items()}
    found, seen = set(), set()

    def walk(made):
        if made in seen:
            return
        seen.add(made)
        stuck = True
        for number in profile_ids:
            for at in gpu.possible_placements(number):
                created = try_to_create(gpu, number, at)
                if created is None:
                    continue
                stuck = False
                walk(made | {(at, number)})
                gpu.destroy_gpu_instance(created.id)
        if stuck:
            found.add(
                " ".join(f"{name_of[n].replace(' ', '-')}@{at.start}" for at, n in sorted(made))
            )

    walk(frozenset())
    return found


class InMemory(Simulator):
    """The simulator without its file: walking thousands of states through fsync takes minutes."""

    def _read(self):
        return held.get(self.path) or super()._read()

    def _write(self, state):
        held[self.path] = state


held = {}


@pytest.fixture
def in_memory(tmp_path):
    yield fresh_in_memory(tmp_path)
    held.clear()


def fresh_in_memory(path, board="a100-40gb"):
    gpu = InMemory(path / "memory.json", BOARDS[board], holders=lambda _: ())
    gpu.set_mig_mode(True)
    return gpu


@pytest.mark.slow
def test_exactly_the_nineteen_maximal_layouts_can_be_reached(in_memory):
    expected = set(MAXIMAL.strip().splitlines())
    assert len(expected) == 19
    assert maximal_layouts(in_memory, [IDS[name] for name in BASE]) == expected


@pytest.mark.slow
def test_with_double_memory_slices_there_are_seventy_eight(in_memory):
    layouts = maximal_layouts(in_memory, [IDS[name] for name in (*BASE, "1g double")])
    kinds = {tuple(sorted(word.split("@")[0] for word in line.split())) for line in layouts}
    assert (len(layouts), len(kinds)) == (78, 38)


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ("1g 1g 1g 1g 1g 1g 1g", "13@6:1 11@4:1 12@5:1 7@0:1 8@1:1 9@2:1 10@3:1"),
        ("3g 1g 2g 1g", "2@4:4 7@0:1 4@2:2 8@1:1"),
        ("2g 2g 2g 1g", "5@4:2 3@0:2 4@2:2 13@6:1"),
        ("1g 2g 4g", "13@6:1 5@4:2 1@0:4"),
        ("2g 1g 1g 1g 1g 1g", "5@4:2 13@6:1 7@0:1 8@1:1 9@2:1 10@3:1"),
        ("1g+me 1g 7g", None),
    ],
)
def test_without_a_placement_the_driver_picks_what_spoils_least(tmp_path, requests, expected):
    """From published listings of instances that were made without a placement."""
    gpu = fresh(tmp_path)
    if expected is None:
        gpu.create_gpu_instance(IDS["1g+me"])
        gpu.create_gpu_instance(IDS["1g"])
        assert refusal(gpu.create_gpu_instance, IDS["7g"]) is MigCode.INSUFFICIENT_RESOURCES
        return
    made = [gpu.create_gpu_instance(IDS[name]) for name in requests.split()]
    assert " ".join(f"{gi.id}@{gi.placement}" for gi in made) == expected


def test_the_guides_own_example_of_fragmentation_fails(a100):
    """1g, 1g, 2g, then a 3g: refused although four memory slices in all are free."""
    made = [a100.create_gpu_instance(IDS[name]) for name in ("1g", "1g", "2g")]
    assert [gi.id for gi in made] == [13, 11, 3]
    assert refusal(a100.create_gpu_instance, IDS["3g"]) is MigCode.INSUFFICIENT_RESOURCES


def test_a_double_memory_slice_goes_to_the_end_last(a100):
    made = [a100.create_gpu_instance(IDS["1g double"]) for _ in range(4)]
    assert [(gi.id, gi.placement.start) for gi in made[:2]] == [(5, 4), (3, 0)]
    assert made[3].placement == Placement(6, 2)


def test_an_a30_takes_the_lowest_free_place(tmp_path):
    gpu = fresh(tmp_path, "a30-24gb")
    assert [gpu.create_gpu_instance(14).id for _ in range(4)] == [3, 4, 5, 6]


def test_some_boards_have_their_halves_swapped(tmp_path):
    gpu = fresh(tmp_path, halves_swapped=True)
    assert gpu.create_gpu_instance(IDS["3g"], Placement(4, 4)).id == 1
    assert gpu.create_gpu_instance(IDS["1g"], Placement(2, 1)).id == 13


def capacities(gpu):
    return {name: gpu.remaining_capacity(IDS[name]) for name in BASE}


def test_capacity_is_coupled_across_profiles(a100):
    assert capacities(a100) == {"1g": 7, "2g": 3, "3g": 2, "4g": 1, "7g": 1}
    at_the_end = a100.create_gpu_instance(IDS["3g"], Placement(4, 4))
    assert capacities(a100) == {"1g": 4, "2g": 2, "3g": 1, "4g": 1, "7g": 0}
    a100.destroy_gpu_instance(at_the_end.id)
    a100.create_gpu_instance(IDS["3g"], Placement(0, 4))
    assert capacities(a100) == {"1g": 3, "2g": 1, "3g": 1, "4g": 0, "7g": 0}


def test_there_is_one_media_extension(a100):
    assert a100.remaining_capacity(IDS["1g+me"]) == 1
    a100.create_gpu_instance(IDS["1g+me"])
    assert a100.remaining_capacity(IDS["1g+me"]) == 0
    assert refusal(a100.create_gpu_instance, IDS["1g+me"]) is MigCode.INSUFFICIENT_RESOURCES
    assert a100.remaining_capacity(IDS["1g"]) == 6


def test_refusals_have_nvmls_codes(a100):
    assert refusal(a100.create_gpu_instance, 99) is MigCode.INVALID_ARGUMENT
    assert refusal(a100.create_gpu_instance, IDS["2g"], Placement(6, 2)) is MigCode.INVALID_ARGUMENT
    made = a100.create_gpu_instance(IDS["2g"], Placement(0, 2))
    taken = Placement(1, 1)
    assert refusal(a100.create_gpu_instance, IDS["1g"], taken) is MigCode.INSUFFICIENT_RESOURCES
    assert refusal(a100.create_compute_instance, made.id, 3) is MigCode.NOT_SUPPORTED
    a100.create_compute_instance(made.id, 0)
    a100.create_compute_instance(made.id, 0)
    assert refusal(a100.create_compute_instance, made.id, 0) is MigCode.INSUFFICIENT_RESOURCES
    assert refusal(a100.destroy_gpu_instance, made.id) is MigCode.IN_USE
    assert refusal(a100.destroy_gpu_instance, 14) is MigCode.NOT_FOUND
    assert refusal(a100.destroy_compute_instance, made.id, 7) is MigCode.NOT_FOUND
    assert refusal(a100.set_mig_mode, False) is MigCode.IN_USE


def test_nothing_can_be_made_while_the_mode_is_off(tmp_path):
    gpu = Simulator(tmp_path / "gpu.json", BOARDS["a100-40gb"])
    assert gpu.mig_mode() == (False, False)
    assert refusal(gpu.create_gpu_instance, IDS["1g"]) is MigCode.NOT_SUPPORTED
    assert gpu.possible_placements(IDS["7g"]) == (Placement(0, 8),)


def test_only_root_may_change_and_anyone_may_read(tmp_path):
    gpu = Simulator(tmp_path / "gpu.json", BOARDS["h100-80gb"], privileged=False)
    assert refusal(gpu.set_mig_mode, True) is MigCode.NO_PERMISSION
    assert len(gpu.profiles()) == 7
    assert gpu.remaining_capacity(19) == 7


def test_a_client_of_the_whole_gpu_keeps_the_mode_pending_on_ampere(tmp_path):
    """The call succeeds and the activation fails: the new mode comes with the next reset."""
    clients = [4711]
    gpu = Simulator(tmp_path / "gpu.json", BOARDS["a100-40gb"], holders=lambda _: clients)
    assert refusal(gpu.set_mig_mode, True) is MigCode.IN_USE
    assert gpu.mig_mode() == (False, True)
    gpu.reset()
    assert gpu.mig_mode() == (True, True)
    assert refusal(gpu.create_gpu_instance, IDS["1g"]) is MigCode.IN_USE
    clients.clear()
    gpu.create_gpu_instance(IDS["1g"])


@pytest.mark.parametrize(("board", "kept"), [("a100-40gb", True), ("h100-80gb", False)])
def test_a_reboot_takes_the_instances_and_on_hopper_the_mode(tmp_path, board, kept):
    gpu = fresh(tmp_path, board)
    gpu.create_compute_instance(gpu.create_gpu_instance(IDS["3g"]).id, 2)
    gpu.reboot()
    assert gpu.gpu_instances() == ()
    assert gpu.mig_devices() == ()
    assert gpu.mig_mode() == (kept, kept)


def test_a_gpu_instance_without_compute_instance_is_no_device(a100):
    first, second = (a100.create_gpu_instance(IDS["1g"]) for _ in range(2))
    a100.create_compute_instance(first.id, 0)
    assert [d.gpu_instance_id for d in a100.mig_devices()] == [first.id]
    a100.create_compute_instance(second.id, 0)
    # By ascending GPU instance id, not by age: the index of the first device has moved.
    assert [d.gpu_instance_id for d in a100.mig_devices()] == [second.id, first.id]
    assert all("MIG 1g.5gb (simulated)" in d.name for d in a100.mig_devices())


def test_several_compute_instances_share_a_gpu_instance(a100):
    made = a100.create_gpu_instance(IDS["3g"])
    inside = [a100.create_compute_instance(made.id, 0) for _ in range(3)]
    assert [ci.placement for ci in inside] == [Placement(0, 1), Placement(1, 1), Placement(2, 1)]
    a100.destroy_compute_instance(made.id, 1)
    assert a100.create_compute_instance(made.id, 0).id == 1
    assert len({d.uuid for d in a100.mig_devices()}) == 3


def test_the_compute_profile_of_a_double_memory_slice_is_seven(a100):
    made = a100.create_gpu_instance(IDS["1g double"])
    assert [p.id for p in a100.compute_profiles(made.id)] == [7]
    assert refusal(a100.create_compute_instance, made.id, 0) is MigCode.NOT_SUPPORTED
    assert a100.create_compute_instance(made.id, 7).id == 0


def test_uuids_are_version_five_stable_and_each_gpus_own(tmp_path):
    def device(folder):
        gpu = fresh(folder)
        made = gpu.create_gpu_instance(IDS["1g"], Placement(0, 1))
        gpu.create_compute_instance(made.id, 0)
        (found,) = gpu.mig_devices()
        gpu.destroy_compute_instance(made.id, 0)
        gpu.destroy_gpu_instance(made.id)
        return found.uuid

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first = device(tmp_path / "a")
    assert uuid.UUID(first.removeprefix("MIG-")).version == 5
    assert device(tmp_path / "a") == first
    assert device(tmp_path / "b") != first


def test_a_process_on_a_device_keeps_it_from_being_destroyed(tmp_path):
    gpu = Simulator(tmp_path / "gpu.json", BOARDS["a100-40gb"])
    gpu.set_mig_mode(True)
    made = gpu.create_gpu_instance(IDS["1g"])
    gpu.create_compute_instance(made.id, 0)
    device = gpu.mig_devices()[0].uuid
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": device}
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as user:
        user.stdout.readline()
        assert environment_holders(device) == [user.pid]
        with pytest.raises(MigError, match=f"process {user.pid}"):
            gpu.destroy_compute_instance(made.id, 0)
        user.stdin.close()
    gpu.destroy_compute_instance(made.id, 0)


def test_two_processes_see_one_gpu(tmp_path):
    gpu = fresh(tmp_path)
    code = (
        "import sys; from pathlib import Path\n"
        "from launcher.profiles import BOARDS\n"
        "from launcher.simulator import Simulator\n"
        "Simulator(Path(sys.argv[1]), BOARDS['a100-40gb']).create_gpu_instance(19)\n"
    )
    makers = [subprocess.Popen([sys.executable, "-c", code, str(gpu.path)]) for _ in range(3)]
    assert [maker.wait(30) for maker in makers] == [0, 0, 0]
    assert [gi.id for gi in gpu.gpu_instances()] == [11, 12, 13]


def test_reading_makes_no_file(tmp_path):
    gpu = Simulator(tmp_path / "no" / "gpu.json", BOARDS["a30-24gb"])
    assert gpu.gpu_instances() == ()
    assert "(simulated)" in gpu.gpu().name
    assert gpu.gpu().simulated
    assert not (tmp_path / "no").exists()


def test_a_file_of_another_board_is_refused_by_name(tmp_path):
    path = fresh(tmp_path).path
    with pytest.raises(GpuError, match="holds a simulated a100-40gb"):
        Simulator(path, BOARDS["h100-80gb"]).gpu_instances()
    path.write_text("{}")
    with pytest.raises(GpuError, match="no simulated GPU"):
        Simulator(path, BOARDS["a100-40gb"]).gpu_instances()


def test_faults_can_be_injected(a100):
    a100.faults["create_gpu_instance"] = [MigCode.GPU_IS_LOST]
    assert refusal(a100.create_gpu_instance, IDS["1g"]) is MigCode.GPU_IS_LOST
    assert a100.create_gpu_instance(IDS["1g"]).id == 13
