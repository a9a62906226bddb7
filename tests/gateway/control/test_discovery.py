"""Slices come and go with the files that name them."""

# A test may block the loop that only it uses.

import asyncio
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from contract import inventory
from gateway.control.discovery import Discovery, InventorySource, StaticSource
from tests.gateway.control.scripted import until
from tests.gateway.making import Fleet, make_spec


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "slices.json"


def names(source: InventorySource) -> list[str]:
    return [spec.name for spec in source.poll()]


def test_no_file_yet_means_no_slices_yet_and_is_said_once(path: Path) -> None:
    source = InventorySource(path)
    with capture_logs() as logs:
        assert [source.poll() for _ in range(3)] == [(), (), ()]
    assert [line["event"] for line in logs] == ["inventory.missed"]


def test_a_file_that_appears_changes_and_is_replaced_is_followed(path: Path) -> None:
    source = InventorySource(path)
    assert names(source) == []
    inventory.save(path, [make_spec("a")])
    assert names(source) == ["a"]
    inventory.save(path, [make_spec("a"), make_spec("b")])
    assert names(source) == ["a", "b"]
    inventory.save(path, [])
    assert names(source) == []


def test_a_file_of_the_same_size_and_time_is_told_by_its_inode(path: Path) -> None:
    """Two atomic writes within one tick of a coarse file system clock."""
    inventory.save(path, [make_spec("a")])
    os.utime(path, ns=(1, 1))
    source = InventorySource(path)
    assert names(source) == ["a"]
    before = path.stat()
    replacement = path.with_name("new")
    replacement.write_text(path.read_text().replace('"a"', '"b"'))
    os.utime(replacement, ns=(1, 1))
    os.replace(replacement, path)
    after = path.stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    assert names(source) == ["b"]


@pytest.mark.parametrize("content", ["", '{"version": 1, "slices": [{"na', "[]", '{"version": 2}'])
def test_a_broken_file_keeps_the_last_good_slices_and_says_why_once(
    path: Path, content: str
) -> None:
    inventory.save(path, [make_spec("a")])
    source = InventorySource(path)
    source.poll()
    with capture_logs() as logs:
        path.write_text(content)
        assert [names(source) for _ in range(3)] == [["a"]] * 3
    [line] = logs
    assert line["event"] == "inventory.refused"
    assert str(path) in line["reason"]
    assert line["kept"] == 1


def test_a_file_that_goes_keeps_its_slices(path: Path) -> None:
    """Whether they still live is what the checks are for."""
    inventory.save(path, [make_spec("a")])
    source = InventorySource(path)
    source.poll()
    with capture_logs() as logs:
        path.unlink()
        assert [names(source) for _ in range(3)] == [["a"]] * 3
    assert [line["event"] for line in logs] == ["inventory.vanished"]


async def test_sources_are_joined_and_the_configuration_wins_a_clash(path: Path) -> None:
    fleet = Fleet()
    inventory.save(path, [make_spec("a", port=19000), make_spec("b", port=19010)])
    fixed = StaticSource([make_spec("a", port=18000)])
    discovery = Discovery(fleet.registry, [fixed, InventorySource(path)])
    with capture_logs() as logs:
        for _ in range(3):
            await discovery.round()
    assert [(name, m.spec.http.port) for name, m in fleet.registry.slices.items()] == [
        ("a", 18000),
        ("b", 19010),
    ]
    [line] = [line for line in logs if line["event"] == "slice.name_clashed"]
    assert (line["name"], line["kept"], line["ignored"]) == ("a", "configuration", str(path))


async def test_nothing_is_published_while_nothing_changes(path: Path) -> None:
    fleet = Fleet()
    inventory.save(path, [make_spec("a")])
    discovery = Discovery(fleet.registry, [InventorySource(path)])
    await discovery.round()
    members = fleet.registry.everywhere.members
    path.touch()
    await discovery.round()
    assert fleet.registry.everywhere.members is members
    assert fleet.told == [("a", "added")]


async def test_a_running_discovery_follows_the_file(path: Path) -> None:
    fleet = Fleet()
    discovery = Discovery(fleet.registry, [InventorySource(path)])
    running = asyncio.ensure_future(discovery.run())
    inventory.save(path, [make_spec("a")])
    await until(lambda: list(fleet.registry.slices) == ["a"])
    inventory.save(path, [make_spec("b")])
    await until(lambda: list(fleet.registry.slices) == ["b"])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_source_with_a_bug_does_not_end_discovery() -> None:
    class Broken:
        name = "broken"
        polls = 0

        def poll(self) -> tuple[()]:
            self.polls += 1
            raise ZeroDivisionError

    source = Broken()
    running = asyncio.ensure_future(Discovery(Fleet().registry, [source]).run())
    with capture_logs() as logs:
        await until(lambda: source.polls > 1)
    assert logs[0]["event"] == "discovery.failed"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
