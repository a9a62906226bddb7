"""The state file is whole, strict and locked."""

import os

import pytest

from contract.slice_spec import Endpoint, SliceSpec
from launcher import process_table, state
from launcher.errors import BusyError, LauncherError
from launcher.mig import Placement
from launcher.process_table import ProcessId
from launcher.runtime import Handle, ServerSpec
from launcher.state import InstanceRecord, ServerRecord, State, StateStore

MEMBER = SliceSpec("s0", Endpoint("127.0.0.1", 8000), Endpoint("127.0.0.1", 8001), simulated=True)
FULL = State(
    gpu="simulated:a100-40gb",
    runtime="process",
    inventory="/x/slices.json",
    mig_enabled=("GPU-0",),
    instances=(InstanceRecord("s0", "GPU-0", "1g.5gb", 19, Placement(0, 1), 7, 0, "MIG-1"),),
    servers=(
        ServerRecord(
            ServerSpec(MEMBER, "/models", ("--log-verbose=1",)),
            Handle("mig-s0-1_", ProcessId(12, "boot/34")),
            "/x/s0.log",
            "ready",
            3,
        ),
    ),
)


def test_what_was_written_is_read_again(tmp_path):
    StateStore(tmp_path).begin(FULL)
    assert StateStore(tmp_path).load() == FULL


def test_nobody_else_may_read_it_for_environments_may_hold_secrets(tmp_path):
    store = StateStore(tmp_path)
    store.begin(FULL)
    store.change(servers=())
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_a_change_is_on_disk_at_once_and_removal_too(tmp_path):
    store = StateStore(tmp_path)
    store.begin(FULL)
    store.change(servers=())
    assert StateStore(tmp_path).load().servers == ()
    store.remove()
    assert StateStore(tmp_path).load() is None
    store.remove()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"gpu": 1}'])
def test_a_file_that_is_not_understood_is_told_and_kept(tmp_path, text):
    store = StateStore(tmp_path)
    store.path.write_text(text)
    with pytest.raises(LauncherError, match="cannot be read as launcher state"):
        store.load()
    assert store.path.read_text() == text


def test_a_file_of_another_version_is_left_to_its_launcher(tmp_path):
    store = StateStore(tmp_path)
    store.begin(State("simulated:a100-40gb", "process", "/x", version=99))
    with pytest.raises(LauncherError, match="has version 99"):
        store.load()


def test_the_second_who_wants_the_folder_is_refused_and_told_by_whom(tmp_path):
    with (
        state.hold(tmp_path, "up"),
        pytest.raises(BusyError, match=f"pid {os.getpid()}"),
        state.hold(tmp_path, "up"),
    ):
        pass
    with state.hold(tmp_path, "down"):
        holder = state.holder_of(tmp_path)
        assert (holder.command, holder.process) == ("down", process_table.identify(os.getpid()))


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(LauncherError, match="cannot be written"),
        state.hold(tmp_path / "file" / "run", "up"),
    ):
        pass


def test_nobody_holds_a_folder_that_does_not_exist(tmp_path):
    assert state.holder_of(tmp_path / "none") is None
    state.lock_path(tmp_path).write_text("up 1 another-boot/1\n")
    assert state.holder_of(tmp_path) is None
