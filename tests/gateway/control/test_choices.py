"""The operator's choices outlive the gateway."""

# A test may block the loop that only it uses.

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.balance.policies import RoundRobin
from gateway.control.choices import (
    FILE_BYTES_MAX,
    ORDERS_MAX,
    ChoiceKeeper,
    Choices,
    ChoicesError,
    parse,
    read,
)
from gateway.fleet.health import Order
from tests.gateway.making import Fleet, live, make_spec


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "state.json"


def keeper(path: Path, fleet: Fleet, configured: str = "least_load") -> ChoiceKeeper:
    kept = ChoiceKeeper(path, fleet.registry, configured)
    fleet.registry.listeners.append(kept)
    kept.load()
    return kept


async def test_an_order_is_on_disk_and_true_when_it_returns(path: Path) -> None:
    fleet = Fleet("a", "b")
    await keeper(path, fleet).order(fleet["a"], Order.DISABLED, "test")
    assert json.loads(path.read_text()) == {"version": 1, "orders": {"a": "disabled"}}
    assert fleet.members() == ["b"]


async def test_an_order_survives_a_restart(path: Path) -> None:
    fleet = Fleet("a", "b")
    await keeper(path, fleet).order(fleet["a"], Order.DRAINED, "test")
    again = Fleet("a", "b")
    keeper(path, again)
    assert again["a"].order is Order.DRAINED
    assert again.members() == ["b"]


async def test_a_slice_that_appears_later_has_its_order_before_it_can_take_traffic(
    path: Path,
) -> None:
    fleet = Fleet("a", "b")
    await keeper(path, fleet).order(fleet["a"], Order.DISABLED, "test")
    again = Fleet()
    keeper(path, again)
    again.registry.replace([make_spec("a"), make_spec("b")])
    for name in "ab":
        again.registry.record(again[name], live("m"))
    assert again.members() == ["b"]
    assert again["a"].state.value == "disabled"


async def test_a_slice_that_is_recut_keeps_its_order(path: Path) -> None:
    fleet = Fleet("a", "b")
    await keeper(path, fleet).order(fleet["a"], Order.DISABLED, "test")
    fleet.registry.replace(fleet.specs[1:])
    fleet.registry.replace(fleet.specs)
    assert fleet["a"].order is Order.DISABLED


async def test_enabling_forgets_the_order(path: Path) -> None:
    fleet = Fleet("a", "b")
    kept = keeper(path, fleet)
    await kept.order(fleet["a"], Order.DISABLED, "test")
    await kept.order(fleet["a"], Order.ENABLED, "test")
    assert json.loads(path.read_text())["orders"] == {}


async def test_a_policy_chosen_live_survives_a_restart(path: Path) -> None:
    fleet = Fleet("a")
    await keeper(path, fleet).set_policy("round_robin", "test")
    again = Fleet("a")
    assert keeper(path, again).policy == "round_robin"
    assert isinstance(again.registry.everywhere.policy, RoundRobin)


async def test_who_edits_the_configuration_means_it(path: Path) -> None:
    """The policy in the file has changed since the operator chose another: the file counts."""
    await keeper(path, Fleet("a"), "least_load").set_policy("round_robin", "test")
    path.write_text(path.read_text().replace("least_load", "another"))
    with capture_logs() as logs:
        assert keeper(path, Fleet("a"), "least_load").policy == "least_load"
    assert [line["event"] for line in logs] == ["policy.choice_dropped"]


async def test_a_choice_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    fleet = Fleet("a", "b")
    kept = ChoiceKeeper(tmp_path / "file" / "state.json", fleet.registry, "least_load")
    with pytest.raises(FileExistsError):
        await kept.order(fleet["a"], Order.DISABLED, "test")
    with pytest.raises(FileExistsError):
        await kept.set_policy("round_robin", "test")
    assert (fleet.members(), kept.policy) == (["a", "b"], "least_load")


BROKEN = [
    b"",
    b'{"version": 1, "orders": {"a": "dis',
    b"[]",
    b'{"version": 2}',
    b'{"version": 1, "orders": []}',
    b'{"version": 1, "orders": {"a": "gone"}}',
    b'{"version": 1, "orders": {"a/b": "disabled"}}',
    b'{"version": 1, "policy": {"chosen": "leastconn"}}',
    b'{"version": 1, "policy": 7}',
    b'{"version": 1, "orders": {"a": []}}',
    b"[" * 100_000,
    b"\xff\xfe",
]


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_a_torn_or_foreign_file_is_set_aside_whole_and_said_so(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    fleet = Fleet("a")
    with capture_logs() as logs:
        keeper(path, fleet)
    assert [(line["event"], line["log_level"]) for line in logs] == [("choices.refused", "error")]
    assert Path(logs[0]["kept_as"]).read_bytes() == content
    assert not path.exists()
    assert fleet.members() == ["a"]


def test_what_was_set_aside_before_is_kept_as_well(path: Path) -> None:
    path.parent.mkdir()
    for content in ("one", "two"):
        path.write_text(content)
        keeper(path, Fleet("a"))
    aside = sorted(path.parent.glob("state.json.bad-*"))
    assert [(file.name[-5:], file.read_text()) for file in aside] == [
        ("bad-1", "one"),
        ("bad-2", "two"),
    ]


async def test_a_foreign_file_that_cannot_be_set_aside_is_not_written_over(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(Path, "rename", refuse)
    path.parent.mkdir()
    path.write_text("mine")
    fleet = Fleet("a", "b")
    kept = keeper(path, fleet)
    with pytest.raises(OSError, match="did not write"):
        await kept.order(fleet["a"], Order.DISABLED, "test")
    assert (path.read_text(), fleet.members()) == ("mine", ["a", "b"])


async def test_a_file_that_is_no_file_is_set_aside_too(path: Path) -> None:
    path.mkdir(parents=True)
    fleet = Fleet("a", "b")
    await keeper(path, fleet).order(fleet["a"], Order.DISABLED, "test")
    assert read(path).orders == {"a": Order.DISABLED}
    assert path.with_name("state.json.bad-1").is_dir()


def test_a_file_larger_than_we_write_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b" " * (FILE_BYTES_MAX + 1))
    with pytest.raises(ChoicesError, match="larger than"):
        read(path)


def test_orders_of_slices_that_are_gone_are_bounded() -> None:
    choices = Choices({f"s{i}": Order.DRAINED for i in range(ORDERS_MAX)}).ordered(
        "new", Order.DISABLED
    )
    assert len(choices.orders) == ORDERS_MAX
    assert "s0" not in choices.orders
    assert choices.orders["new"] is Order.DISABLED


CHOICES = st.builds(
    Choices,
    orders=st.dictionaries(
        st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True),
        st.sampled_from([Order.DRAINED, Order.DISABLED]),
        max_size=5,
    ),
    policy=st.just("round_robin"),
    configured=st.just("least_load"),
)


@given(CHOICES)
def test_what_is_written_is_what_is_read(choices: Choices) -> None:
    assert parse(choices.dump().encode()) == choices


@given(st.binary(max_size=100) | st.builds(lambda c, n: c.dump().encode()[:n], CHOICES, st.integers(0, 90)))  # fmt: skip
def test_any_bytes_are_choices_or_an_error(data: bytes) -> None:
    try:
        assert isinstance(parse(data), Choices)
    except ChoicesError:
        pass


def test_no_file_means_no_choices(path: Path) -> None:
    assert read(path) == Choices()


# --- the disk lets us down ----------------------------------------------------------------------


async def chosen(path: Path) -> tuple[Fleet, ChoiceKeeper]:
    """Return a fleet in which `a` is drained, and that is on disk."""
    fleet = Fleet("a", "b", "c")
    kept = keeper(path, fleet)
    await kept.order(fleet["a"], Order.DRAINED, "test")
    return fleet, kept


@pytest.mark.parametrize("call", ["write", "fsync", "replace", "chmod", "mkstemp"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
async def test_whichever_step_fails_the_old_file_stands_whole_and_nothing_is_left_beside_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    fleet, kept = await chosen(path)
    before = path.read_bytes()
    with monkeypatch.context() as broken:
        break_down(broken, call, number)
        with pytest.raises(OSError, match=os.strerror(number)):
            await kept.order(fleet["b"], Order.DISABLED, "test")
    assert path.read_bytes() == before
    assert fleet["b"].order is Order.ENABLED
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    await kept.order(fleet["b"], Order.DISABLED, "test")  # the disk has room again
    assert read(path).orders == {"a": Order.DRAINED, "b": Order.DISABLED}


def break_down(broken: pytest.MonkeyPatch, call: str, number: int) -> None:
    """Let one step of writing a file fail."""

    def fails(*arguments: object, **named: object) -> int:
        raise OSError(number, os.strerror(number))

    if call == "write":
        opened = os.fdopen

        def full(*arguments: Any, **named: Any) -> Any:
            file = opened(*arguments, **named)
            file.write = fails
            return file

        broken.setattr("contract.files.os.fdopen", full)
    elif call == "mkstemp":
        broken.setattr("contract.files.tempfile.mkstemp", fails)
    else:
        broken.setattr(f"contract.files.os.{call}", fails)


async def test_a_full_disk_is_told_and_changes_nothing(path: Path) -> None:
    """No part is played: the kernel itself refuses to write more than a few bytes."""
    await chosen(path)
    program = f"""
import asyncio, os, pathlib, resource, signal, sys
from gateway.control.choices import ChoiceKeeper
from gateway.fleet.health import Order
from tests.gateway.making import Fleet
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8, 8))
fleet = Fleet("a", "b", "c")
kept = ChoiceKeeper(pathlib.Path({str(path)!r}), fleet.registry, "least_load")
kept.load()
try:
    asyncio.run(kept.order(fleet["b"], Order.DISABLED, "test"))
except OSError as error:
    print(error.strerror, fleet["a"].order.value, fleet["b"].order.value, file=sys.stderr)
"""
    done = await asyncio.to_thread(run_python, program)
    assert done.stderr.strip().endswith("File too large drained enabled")
    assert read(path).orders == {"a": Order.DRAINED}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("call", ["fsync", "chmod", "replace"])
async def test_a_kill_between_writing_and_renaming_leaves_the_old_file_whole(
    path: Path, call: str
) -> None:
    await chosen(path)
    program = f"""
import asyncio, os, pathlib, signal
from gateway.control.choices import ChoiceKeeper
from gateway.fleet.health import Order
from tests.gateway.making import Fleet
fleet = Fleet("a", "b", "c")
kept = ChoiceKeeper(pathlib.Path({str(path)!r}), fleet.registry, "least_load")
kept.load()
os.{call} = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(kept.order(fleet["b"], Order.DISABLED, "test"))
"""
    done = await asyncio.to_thread(run_python, program)
    assert done.returncode == -signal.SIGKILL
    again = Fleet("a", "b", "c")
    keeper(path, again)
    assert (again["a"].order, again["b"].order) == (Order.DRAINED, Order.ENABLED)


async def test_a_folder_that_may_not_be_written_is_told_and_changes_nothing(path: Path) -> None:
    fleet, kept = await chosen(path)
    path.parent.chmod(0o555)
    was = os.geteuid()
    try:
        if was == 0:  # to root every folder is open: be nobody for a moment
            os.seteuid(65534)
        with pytest.raises(PermissionError):
            await kept.order(fleet["b"], Order.DISABLED, "test")
    finally:
        os.seteuid(was)
        path.parent.chmod(0o755)
    assert fleet["b"].order is Order.ENABLED


def run_python(program: str) -> "subprocess.CompletedProcess[str]":
    root = Path(__file__).parents[3]
    return subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=30,
        env={**os.environ, "PYTHONPATH": str(root)}, check=False,
    )  # fmt: skip
