"""The journal holds states, not a history, and never loses a file that it does not understand."""

import json
from pathlib import Path

import pytest

from gateway.triton import journal as module
from gateway.triton.journal import Journal, JournalError, journal_path


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "run" / "journal.json")


def reread(journal: Journal) -> Journal:
    again = Journal(journal.path)
    again.read()
    return again


def test_it_lies_beside_the_state_file() -> None:
    assert journal_path(Path("run/gateway-state.json")) == Path("run/gateway-state-journal.json")


async def test_what_is_saved_is_read_again(journal: Journal) -> None:
    journal.unloaded("m", {"unload_dependents": True})
    journal.loaded("m", {"config": "{}"}, ("s3",)).config_hash = "abc"
    journal.registered("r", {"key": "/k", "offset": 0, "byte_size": 8})
    journal.logging_set({"log_info": False})
    journal.trace_set("m", {"trace_rate": None})
    await journal.save()
    assert reread(journal).dump() == journal.dump()
    assert not reread(journal).is_empty


def test_a_plain_load_keeps_an_earlier_override_as_triton_does(journal: Journal) -> None:
    journal.loaded("m", {"config": "{}"}, ())
    journal.loaded("m", {}, ())
    assert journal.models["m"].load is not None
    assert journal.models["m"].load.parameters == {"config": "{}"}


def test_an_unload_ends_an_override(journal: Journal) -> None:
    journal.loaded("m", {"config": "{}"}, ())
    journal.unloaded("m", {})
    journal.loaded("m", {}, ())
    state = journal.models["m"]
    assert state.unload == {}
    assert state.load is not None
    assert state.load.parameters == {}


def test_every_change_is_a_new_revision(journal: Journal) -> None:
    seen = {journal.revision}
    journal.loaded("m", {}, ())
    seen.add(journal.revision)
    journal.unregistered("")
    seen.add(journal.revision)
    assert len(seen) == 3


def test_it_holds_so_many_models_and_drops_the_oldest(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MODELS_MAX", 2)
    for name in "abc":
        journal.unloaded(name, {})
    assert list(journal.models) == ["b", "c"]


async def test_huge_overrides_stay_in_memory(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVED_PARAMETERS_MAX", 10)
    journal.loaded("big", {"file:1/model.bin": "x" * 11}, ())
    journal.loaded("small", {"config": "{}"}, ())
    await journal.save()
    again = reread(journal)
    assert again.models["small"].load is not None
    assert again.models["big"].load is None


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"version":2}', b'{"version":1,"models":3}', b"[" * 100_000]
)
def test_a_file_that_is_not_ours_is_set_aside(journal: Journal, content: bytes) -> None:
    journal.path.parent.mkdir()
    journal.path.write_bytes(content)
    journal.read()
    assert journal.is_empty
    assert journal.path.with_name("journal.json.bad-1").read_bytes() == content


def test_a_restore_that_fails_changes_nothing(journal: Journal) -> None:
    journal.loaded("m", {}, ())
    with pytest.raises(JournalError):
        journal.restore(json.dumps({"version": 1, "models": {}}).encode())
    assert "m" in journal.models


async def test_a_disk_that_is_full_costs_the_file_and_not_the_journal(journal: Journal) -> None:
    journal.path.mkdir(parents=True)  # a folder cannot be replaced by a file
    journal.loaded("m", {}, ())
    await journal.save()
    assert "m" in journal.models


# --- two gateways, of which one replaces the other ------------------------------------------------


@pytest.fixture
def successor(journal: Journal) -> Journal:
    return Journal(journal.path)


async def test_two_gateways_lose_nothing_of_each_other(
    journal: Journal, successor: Journal
) -> None:
    journal.loaded("before", {}, ())
    await journal.save()
    successor.read()
    journal.loaded("old", {"config": "{}"}, ())
    successor.registered("r", {"key": "/k"})
    await successor.save()
    await journal.save()
    journal.logging_set({"log_info": False})
    await journal.save()
    successor.unloaded("before", {})
    await successor.save()
    for one in (successor, reread(journal)):
        assert set(one.models) == {"before", "old"}
        assert one.models["before"].load is None
        assert one.regions == {"r": {"key": "/k"}}
        assert one.logging == {"log_info": False}


async def test_what_the_other_has_written_is_a_new_revision(
    journal: Journal, successor: Journal
) -> None:
    journal.loaded("m", {}, ())
    await journal.save()
    successor.read()
    seen = successor.revision
    await successor.refresh()
    assert successor.revision == seen, "nothing is new"
    journal.unloaded("m", {})
    await journal.save()
    await successor.refresh()
    assert successor.revision > seen
    assert successor.models["m"].load is None
    seen = journal.revision
    await journal.refresh()
    assert journal.revision == seen, "its own writing is nothing new"


async def test_what_ends_without_changes_writes_nothing(
    journal: Journal, successor: Journal
) -> None:
    journal.loaded("m", {}, ())
    await journal.save()
    successor.read()
    successor.unloaded("m", {})
    await successor.save()
    written = journal.path.stat().st_ino
    await journal.save()
    assert journal.path.stat().st_ino == written


async def test_huge_overrides_outlive_what_the_other_writes(
    journal: Journal, successor: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVED_PARAMETERS_MAX", 10)
    journal.loaded("big", {"file:1/model.bin": "x" * 11}, ())
    await journal.save()
    successor.read()
    successor.logging_set({"log_info": False})
    await successor.save()
    await journal.refresh()
    assert journal.models["big"].load is not None
    successor.unloaded("big", {})
    await successor.save()
    await journal.refresh()
    assert journal.models["big"].load is None


async def test_a_gateway_that_hangs_with_the_lock_does_not_stop_the_other(
    journal: Journal, successor: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.triton.journal_file.LOCK_S", 0.05)
    journal._file.begin()
    successor.loaded("m", {}, ())
    await successor.save()
    journal._file.release()
    assert "m" in reread(journal).models


async def test_nonsense_from_elsewhere_is_replaced(journal: Journal) -> None:
    journal.loaded("m", {}, ())
    await journal.save()
    journal.path.write_text("nonsense")
    await journal.refresh()
    journal.loaded("n", {}, ())
    await journal.save()
    assert set(reread(journal).models) == {"m", "n"}
