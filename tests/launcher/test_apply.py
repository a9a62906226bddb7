"""Plans are carried out, repaired after a crash anywhere, and undone exactly."""

import contextlib

import pytest

from launcher import apply, cutting, plan, stages
from launcher.errors import GpuError
from launcher.layout import parse_names
from launcher.mig import MigCode, MigError, Placement
from launcher.plan import Addresses
from launcher.profiles import BOARDS
from launcher.simulator import Simulator
from launcher.state import State, StateStore


@pytest.fixture
def store(tmp_path):
    made = StateStore(tmp_path)
    made.begin(State("simulated:a100-40gb", "process", str(tmp_path / "slices.json")))
    return made


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(cutting, "IN_USE_PATIENCE_S", 0.3)
    monkeypatch.setattr(cutting, "IN_USE_FIRST_DELAY_S", 0.01)


def make_plan(gpu, store, layout="3g,2g,1g,1g", force=False):
    facts = apply.read_facts(gpu)
    owned = apply.find_owned(store.state, [facts])
    layouts = {facts.gpu.uuid: parse_names(layout)}
    return plan.make([facts], layouts, Addresses("127.0.0.1", 8000), owned, force)


def by_uuid(gpu):
    return {gpu.gpu().uuid: gpu}


def run(gpu, store, layout="3g,2g,1g,1g", force=False):
    made = make_plan(gpu, store, layout, force)
    return apply.cut(by_uuid(gpu), [stages.whole(part) for part in made.gpus], store)


def undo(gpu, store):
    apply.uncut(by_uuid(gpu), store)


def is_untouched(gpu):
    return gpu.gpu_instances() == () and gpu.mig_mode() == (False, False)


@pytest.fixture
def gpu(tmp_path):
    """An A100 as it comes: MIG mode off."""
    return Simulator(tmp_path / "gpu.json", BOARDS["a100-40gb"], holders=lambda _: ())


def test_each_slice_gets_a_device_of_its_profile(gpu, store):
    devices = run(gpu, store)
    names = {device.uuid: device.name for device in gpu.mig_devices()}
    assert [names[devices[f"s{i}"]].split()[3] for i in range(4)] == [
        "3g.20gb", "2g.10gb", "1g.5gb", "1g.5gb",
    ]  # fmt: skip
    assert {record.mig_uuid for record in store.state.instances} == set(names)


def test_doing_it_again_changes_nothing(gpu, store):
    first = run(gpu, store)
    before = gpu.path.read_bytes()
    assert run(gpu, store) == first
    assert gpu.path.read_bytes() == before


def test_undoing_leaves_the_gpu_as_it_was(gpu, store):
    run(gpu, store)
    undo(gpu, store)
    assert is_untouched(gpu)
    assert store.state.instances == ()
    undo(gpu, store)


def test_a_double_memory_slice_gets_its_compute_instance(gpu, store):
    assert len(run(gpu, store, "1g.10gb,1g")) == 2


STEPS = ("set_mig_mode", "create_gpu_instance", "create_compute_instance")


@pytest.mark.parametrize("method", STEPS)
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_crash_anywhere_is_repaired_by_the_next_run(gpu, store, tmp_path, method, after):
    """The launcher dies in the middle: nothing but the file is left of it."""

    class Killed(BaseException):
        pass

    real = getattr(Simulator, method)
    calls = []

    def dying(self, *arguments):
        if len(calls) == after:
            raise Killed
        calls.append(arguments)
        return real(self, *arguments)

    dies = type("Dies", (Simulator,), {method: dying})
    mortal = dies(gpu.path, gpu.board, holders=lambda _: ())
    if method == "set_mig_mode" and after:
        after = 0  # there is one such call
        calls.clear()
    with pytest.raises(Killed):
        run(mortal, store)
    next_store = StateStore(tmp_path)
    next_store.load()
    assert len(run(gpu, next_store)) == 4
    assert len(gpu.mig_devices()) == len(gpu.gpu_instances()) == 4
    undo(gpu, next_store)
    assert is_untouched(gpu)


@pytest.mark.parametrize("method", STEPS)
def test_a_crash_anywhere_is_undone_by_down(gpu, store, tmp_path, method):
    gpu.faults[method] = [MigCode.UNKNOWN]
    with pytest.raises(GpuError, match=r"the GPU refused to .*Unknown Error"):
        run(gpu, store)
    next_store = StateStore(tmp_path)
    next_store.load()
    undo(gpu, next_store)
    assert is_untouched(gpu)


def test_in_use_for_a_moment_is_waited_out(gpu, store):
    gpu.faults["create_gpu_instance"] = [MigCode.IN_USE] * 3
    assert len(run(gpu, store)) == 4
    gpu.faults["destroy_compute_instance"] = [MigCode.IN_USE] * 3
    undo(gpu, store)
    assert is_untouched(gpu)


def test_in_use_for_good_is_told_with_the_holder_and_stays_on_record(gpu, store):
    run(gpu, store, "1g,1g")
    victim = store.state.instances[1].mig_uuid
    gpu.holders = lambda uuid: [4711] if uuid == victim else ()
    with pytest.raises(GpuError, match=r"In use by another client .process 4711.; stop what uses"):
        undo(gpu, store)
    assert [record.mig_uuid for record in store.state.instances] == [victim]


def test_no_permission_says_what_to_do(tmp_path, store):
    gpu = Simulator(tmp_path / "gpu.json", BOARDS["a100-40gb"], privileged=False)
    with pytest.raises(
        GpuError, match=r"enable MIG mode: Insufficient Permissions.*MIG mode needs root"
    ):
        run(gpu, store)


def test_others_instances_survive(gpu, store):
    gpu.set_mig_mode(True)
    foreign = gpu.create_gpu_instance(9, Placement(4, 4))
    gpu.create_compute_instance(foreign.id, 2)
    run(gpu, store, "2g,1g,1g")
    undo(gpu, store)
    assert gpu.gpu_instances() == (foreign,)
    assert len(gpu.mig_devices()) == 1
    assert gpu.mig_mode() == (True, True)


def test_with_force_others_instances_in_the_way_go(gpu, store):
    gpu.set_mig_mode(True)
    gpu.create_compute_instance(gpu.create_gpu_instance(9, Placement(4, 4)).id, 2)
    before = gpu.gpu_instances()
    assert len(run(gpu, store, "all-1g", force=True)) == 7
    undo(gpu, store)
    # `down` restores what was found, with its compute instance.
    assert gpu.gpu_instances() == before
    assert len(gpu.mig_devices()) == 1


def test_an_instance_that_took_the_place_of_ours_is_a_strangers(gpu, store):
    """Somebody destroyed ours and made another at the same place, of another size."""
    run(gpu, store, "3g")
    (ours,) = gpu.gpu_instances()
    gpu.destroy_compute_instance(ours.id, 0)
    gpu.destroy_gpu_instance(ours.id)
    stranger = gpu.create_gpu_instance(5, Placement(0, 4))
    undo(gpu, store)
    assert gpu.gpu_instances() == (stranger,)


CHANGES = ("destroy_compute_instance", "destroy_gpu_instance", "create_gpu_instance",
           "create_compute_instance")  # fmt: skip


@pytest.mark.parametrize("method", CHANGES)
@pytest.mark.parametrize("after", [0, 1])
def test_a_refused_step_has_the_steps_before_it_rolled_back(gpu, store, method, after):
    """From seven to a mixed layout; somewhere on the way the GPU refuses."""
    first = run(gpu, store, "all-1g")
    before = gpu.gpu_instances()
    fail_after(gpu, method, after)
    with pytest.raises(GpuError, match=r"Unknown Error.*"):
        run(gpu, store, "3g,2g,1g,1g")
    assert gpu.gpu_instances() == before
    assert {d.uuid for d in gpu.mig_devices()} == set(first.values())
    assert {r.slice_name: r.mig_uuid for r in store.state.instances} == first
    assert len(run(gpu, store, "3g,2g,1g,1g")) == 4


def fail_after(gpu, method, calls):
    """The next `calls` calls of the method pass, the one after them is refused."""
    gpu.faults[method] = [None] * calls + [MigCode.UNKNOWN]


def test_what_cannot_be_rolled_back_is_told_and_completed_by_the_next_run(gpu, store):
    run(gpu, store, "all-1g")
    gpu.faults["create_gpu_instance"] = [MigCode.UNKNOWN] * 4
    with pytest.raises(GpuError, match=r"not all .* could be undone .*run this again"):
        run(gpu, store, "3g,2g,1g,1g")
    gpu.faults.clear()
    assert len(run(gpu, store, "3g,2g,1g,1g")) == 4
    undo(gpu, store)
    assert gpu.gpu_instances() == ()


def test_mig_mode_that_was_switched_on_in_vain_is_switched_off(gpu, store):
    gpu.faults["create_gpu_instance"] = [MigCode.UNKNOWN]
    with pytest.raises(GpuError, match="what had been done was undone"):
        run(gpu, store)
    assert is_untouched(gpu)


def test_the_error_of_a_pending_mode_tells_how_to_go_on(gpu, store):
    gpu.faults["set_mig_mode"] = [MigCode.RESET_REQUIRED]
    with pytest.raises(GpuError, match=r"on Ampere it changes by a reset.*--gpu-reset"):
        run(gpu, store)


def test_only_what_must_change_is_changed(gpu, store):
    """The shortest sequence: five of seven go, two come, two are not touched."""
    first = run(gpu, store, "all-1g")
    devices = run(gpu, store, "3g,2g,1g,1g")
    assert {devices["s2"], devices["s3"]} == {first["s2"], first["s3"]}


def test_disabling_mig_refuses_where_others_have_instances(gpu):
    gpu.set_mig_mode(True)
    foreign = gpu.create_gpu_instance(19)
    with pytest.raises(GpuError, match="still has GPU instances"):
        apply.disable_mig(by_uuid(gpu))
    gpu.destroy_gpu_instance(foreign.id)
    assert apply.disable_mig(by_uuid(gpu)) == ["NVIDIA A100-SXM4-40GB (simulated)"]
    assert apply.disable_mig(by_uuid(gpu)) == []


def test_what_vanished_is_found_out(gpu, store):
    run(gpu, store, "3g,1g")
    assert apply.missing(by_uuid(gpu), store.state) == ()
    victim = store.state.instances[1]
    gpu.destroy_compute_instance(victim.gpu_instance_id, 0)
    gpu.destroy_gpu_instance(victim.gpu_instance_id)
    assert apply.missing(by_uuid(gpu), store.state) == (victim.slice_name,)


def test_a_mode_that_waits_for_a_reset_is_left_so(gpu, store):
    """It is what the user was told to reset the GPU for; `down --disable-mig` takes it back."""
    gpu.holders = lambda uuid: [4711] if uuid.startswith("GPU") else ()
    with pytest.raises(GpuError, match=r"GPU 0: .*enable MIG mode: In use .*MIG mode is pending"):
        run(gpu, store)
    undo(gpu, store)
    assert gpu.mig_mode() == (False, True)
    gpu.holders = lambda uuid: ()
    gpu.reset()
    assert len(run(gpu, store)) == 4


def test_a_pending_mode_is_taken_back_by_disable_mig(gpu):
    gpu.holders = lambda uuid: [4711]
    with pytest.raises(MigError):
        gpu.set_mig_mode(True)
    gpu.holders = lambda uuid: ()
    assert apply.disable_mig(by_uuid(gpu)) == [gpu.gpu().name]
    assert gpu.mig_mode() == (False, False)


def test_a_gpu_that_is_lost_in_the_middle_is_told(gpu, store):
    real = Simulator.create_gpu_instance

    def lost(self, *arguments):
        made = real(self, *arguments)
        self.fail(MigCode.GPU_IS_LOST)
        return made

    gpus = by_uuid(gpu)
    falls = type("Falls", (Simulator,), {"create_gpu_instance": lost})
    with pytest.raises(GpuError, match=r"GPU 0: cannot find GPU 0: GPU is lost; .*could be undone"):
        run(falls(gpu.path, gpu.board, holders=lambda _: ()), store)
    with pytest.raises(GpuError, match="GPU 0: cannot find GPU 0: GPU is lost"):
        apply.missing(gpus, store.state)
    gpu.reset()  # instances do not survive it
    undo(gpu, store)
    assert is_untouched(gpu)


# --- killed at each step ------------------------------------------------------------------------

CHANGES = (
    "set_mig_mode", "create_gpu_instance", "destroy_gpu_instance", "create_compute_instance",
    "destroy_compute_instance",
)  # fmt: skip


class Killed(BaseException):
    pass


def mortal(gpu, life, *, done):
    """Return a driver whose process dies at a change of the GPU, before it or when it is done."""
    left = [life]

    def dying(method):
        real = getattr(Simulator, method)

        def change(self, *arguments):
            left[0] -= 1
            if left[0] < 0 and not done:
                raise Killed
            result = real(self, *arguments)
            if left[0] < 0:
                raise Killed
            return result

        return change

    made = type("Mortal", (Simulator,), {method: dying(method) for method in CHANGES})
    return made(gpu.path, gpu.board, holders=lambda _: ())


def others_and_ours(gpu, store):
    """A 3g of somebody else's with two compute instances, and all-1g of ours beside it."""
    gpu.set_mig_mode(True)
    theirs = gpu.create_gpu_instance(9, Placement(4, 4))
    gpu.create_compute_instance(theirs.id, 1)
    gpu.create_compute_instance(theirs.id, 0)
    run(gpu, store, "2g,1g")


def shape(gpu):
    """What is there, without the numbers that change when it is made again."""
    inside = {instance.id: [] for instance in gpu.gpu_instances()}
    for number in inside:
        inside[number] = sorted(entry.profile_id for entry in gpu.compute_instances(number))
    return sorted((gi.placement, gi.profile_id, inside[gi.id]) for gi in gpu.gpu_instances())


def reload(tmp_path):
    store = StateStore(tmp_path)
    store.load()
    return store


@pytest.mark.parametrize("done", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize("life", range(16))
def test_killed_at_any_step_of_a_recut_the_next_completes_it(gpu, store, tmp_path, life, done):
    """Steps: three of theirs and four of ours are destroyed, then four instances are made in pairs."""
    others_and_ours(gpu, store)
    with contextlib.suppress(Killed):
        run(mortal(gpu, life, done=done), store, "4g,1g,1g", force=True)
    later = reload(tmp_path)
    assert len(run(gpu, later, "4g,1g,1g", force=True)) == 3
    assert [number for _, number, _ in shape(gpu)] == [5, 19, 19]
    assert len(gpu.mig_devices()) == 3
    undo(gpu, later)
    assert shape(gpu) == [(Placement(4, 4), 9, [0, 1])]  # theirs, as it was found


@pytest.mark.parametrize("done", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize("life", range(16))
def test_killed_at_any_step_of_a_recut_down_restores_what_was_found(
    gpu, store, tmp_path, life, done
):
    others_and_ours(gpu, store)
    with contextlib.suppress(Killed):
        run(mortal(gpu, life, done=done), store, "4g,1g,1g", force=True)
    undo(gpu, reload(tmp_path))
    assert shape(gpu) == [(Placement(4, 4), 9, [0, 1])]
    assert gpu.mig_mode() == (True, True)


@pytest.mark.parametrize("done", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize("life", range(10))
def test_killed_at_any_step_of_down_the_next_completes_it(gpu, store, tmp_path, life, done):
    run(gpu, store, "3g,2g,1g,1g")
    with contextlib.suppress(Killed):
        undo(mortal(gpu, life, done=done), store)
    undo(gpu, reload(tmp_path))
    assert is_untouched(gpu)


@pytest.mark.parametrize("step", range(13))
def test_refused_at_any_step_all_is_as_it_was(gpu, store, tmp_path, step):
    others_and_ours(gpu, store)
    before = (shape(gpu), {(r.slice_name, r.placement) for r in store.state.instances})
    left = [step]

    def refusing(method):
        real = getattr(Simulator, method)

        def change(self, *arguments):
            left[0] -= 1
            if left[0] == -1:
                raise MigError(method, MigCode.UNKNOWN)
            return real(self, *arguments)

        return change

    made = type("Refusing", (Simulator,), {method: refusing(method) for method in CHANGES})
    with contextlib.suppress(GpuError):
        run(made(gpu.path, gpu.board, holders=lambda _: ()), store, "4g,1g,1g", force=True)
        pytest.fail("there is no such step: range() is too long")
    records = reload(tmp_path).state.instances
    assert (shape(gpu), {(record.slice_name, record.placement) for record in records}) == before
