"""`mig-gateway flowers`: some requests always outstanding, and what came of them."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator

import pytest

from gateway.cli import main
from tests.gateway.test_cli import Capsys
from tests.support.flower_model import Model


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    model = Model()
    await model.server.start_server()
    yield model
    await model.server.close()


async def test_what_came_back_is_summed_up(model: Model, capsys: Capsys) -> None:
    words = ["flowers", "--url", f"127.0.0.1:{model.server.port}", "--for", "1s"]
    status = await run_beside([*words, "--outstanding", "3"])
    assert status == 0
    out = capsys.readouterr().out
    found = re.search(r"(\d+) answered over HTTP, 0 failed", out)
    assert found is not None
    answered = int(found[1])
    assert 0 <= len(model.asked) - answered <= 3, "those outstanding at the end"
    assert f"by slice: s3 {answered}" in out
    assert 1 <= model.most_at_once <= 3


async def test_failures_are_told_and_exit_1(model: Model, capsys: Capsys) -> None:
    model.error = "no slice can serve"
    words = ["flowers", "--url", f"127.0.0.1:{model.server.port}", "--for", "500ms"]
    assert await run_beside(words) == 1
    assert "the last failure: no slice can serve" in capsys.readouterr().out


@pytest.mark.parametrize("count", ["0", "101", "x"])
def test_more_than_may_be_outstanding_is_a_wrong_command_line(count: str) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["flowers", "--outstanding", count])
    assert raised.value.code == 2


def test_an_address_that_is_none_is_said(capsys: Capsys) -> None:
    assert main(["flowers", "--url", "nowhere"]) == 1
    assert "host:port" in capsys.readouterr().err


async def run_beside(words: list[str]) -> int:
    """Run the command in a process of its own: it sets signal handlers. Pass its output on."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", *words, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    sys.stdout.write(out.decode())
    assert process.returncode is not None
    return process.returncode
