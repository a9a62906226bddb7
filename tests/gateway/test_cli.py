"""The command line: exit codes, and sentences a person can act on."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer

from contract.slice_spec import Endpoint
from gateway.cli import main
from gateway.config import HealthSection
from gateway.control.admin import AdminServer
from gateway.control.choices import ChoiceKeeper
from gateway.control.health import HealthChecker
from gateway.control.probes import TritonProbe
from gateway.fleet.health import CheckResult, Order
from gateway.metrics import Counters
from tests.gateway.control.scripted import ScriptedTriton
from tests.gateway.making import Fleet, make_spec
from tests.support.certificates import Authority

GOOD = 'slices: [{name: s0, http: "127.0.0.1:8000", grpc: "127.0.0.1:8001", weight: 2}]\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(GOOD)
    return path


class Served:
    """A fleet behind a real admin port, and the command line run against it."""

    def __init__(self, folder: Path) -> None:
        self.fleet = Fleet("a", "b")
        registry = self.fleet.registry
        server = AdminServer(
            Endpoint("127.0.0.1", 1),
            registry,
            Counters(),
            HealthChecker(registry, TritonProbe(), HealthSection()),
            ChoiceKeeper(folder / "state.json", registry, "least_load"),
            lambda: "",
        )
        self.server = TestServer(server.application())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    async def run(self, *words: str) -> int:
        return await self.command("slices", *words)

    async def command(self, *words: str) -> int:
        return await asyncio.to_thread(main, [*words, "--admin", self.url])


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    served = Served(tmp_path)
    async with served.server:
        yield served


Capsys = pytest.CaptureFixture[str]

# --- check ------------------------------------------------------------------------------------


def test_check_of_a_good_file_sums_it_up(config: Path, capsys: Capsys) -> None:
    assert main(["check", "--config", str(config)]) == 0
    out = capsys.readouterr().out
    assert "fine" in out
    assert "s0: http 127.0.0.1:8000, grpc 127.0.0.1:8001, weight 2" in out
    assert "0.0.0.0:50050" in out


def test_check_names_every_mistake_with_its_path_and_exits_2(config: Path, capsys: Capsys) -> None:
    config.write_text(GOOD + "balancing: {policy: leastconn}\nlisen: 1\n")
    assert main(["check", "--config", str(config)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{config}: ") for line in lines)


def test_check_warns_about_what_is_allowed_and_probably_wrong(config: Path, capsys: Capsys) -> None:
    config.write_text(GOOD.replace("]\n", ', {name: s1, http: "127.0.0.1:8000", grpc: "h:1"}]\n'))
    assert main(["check", "--config", str(config)]) == 0
    assert "warning: slices s0 and s1 have the same http" in capsys.readouterr().err


def test_check_reads_tokens_and_certificates_as_serve_would(config: Path, capsys: Capsys) -> None:
    folder = config.parent
    pair = Authority(folder).server()
    (folder / "token").write_text("t" * 20)
    text = (
        f"tls: {{cert: {pair.cert}, key: {pair.key}, min_version: 1.3}}\n"
        f"admin: {{tokens: [{{name: ops, file: {folder}/token, role: write}}]}}\n"
    )
    config.write_text(GOOD + text)
    assert main(["check", "--config", str(config)]) == 0
    out = capsys.readouterr().out
    assert "0.0.0.0:50050 (TLS 1.3 or newer)" in out
    assert "127.0.0.1:9001 (ops may write)" in out
    (folder / "token").unlink()
    pair.key.write_text("")
    assert main(["check", "--config", str(config)]) == 2
    said = capsys.readouterr().err
    assert "admin.tokens[0].file: " in said
    assert "tls.key: " in said
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(config)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr.count("\n")) == (2, 2)
    assert "tls.key: " in done.stderr


def test_serve_of_a_bad_file_exits_2(config: Path, capsys: Capsys) -> None:
    config.write_text("lisen: 1")
    assert main(["serve", "--config", str(config)]) == 2
    assert "did you mean listen?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [[], ["serve"], ["check"], ["nonsense"], ["slices", "explode", "a"],
              ["slices", "drain", "a", "--wait", "soon"]], ids=" ".join
)  # fmt: skip
def test_a_wrong_command_line_exits_2(words: list[str], capsys: Capsys) -> None:
    with pytest.raises(SystemExit) as raised:
        main(words)
    assert raised.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_python_m_gateway_is_the_same_program(config: Path) -> None:
    command = [sys.executable, "-m", "gateway", "check", "--config", str(config)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert "fine" in done.stdout


# --- slices -----------------------------------------------------------------------------------


async def test_slices_shows_a_table(served: Served, capsys: Capsys) -> None:
    refused = CheckResult(False, "[Errno 111] refused [/]", conclusive=True)
    served.fleet.registry.record(served.fleet["b"], refused)
    assert await served.run() == 0
    out = capsys.readouterr().out
    assert "simulated" not in out
    [line] = [line for line in out.splitlines() if "unready" in line]
    assert "[Errno 111] refused [/]" in line


async def test_a_simulated_slice_is_marked_wherever_it_is_shown(
    served: Served, capsys: Capsys
) -> None:
    served.fleet.registry.replace([make_spec("a", simulated=True), make_spec("b")])
    assert await served.run() == 0
    out = capsys.readouterr().out
    assert "exist on paper only" in out
    assert "a (simulated)" in out
    assert "b (simulated)" not in out
    assert await served.run("disable", "a", "--force") == 0
    assert "a (simulated) is disabled, 0 requests in flight\n" in capsys.readouterr().out


async def test_slices_as_json_is_the_answer_as_it_is(served: Served, capsys: Capsys) -> None:
    assert await served.run("--json") == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)["slices"]] == ["a", "b"]


@pytest.mark.parametrize(("verb", "order"), [("drain", Order.DRAINED), ("disable", Order.DISABLED)])
async def test_a_slice_is_taken_out_and_in(
    served: Served, capsys: Capsys, verb: str, order: Order
) -> None:
    assert await served.run(verb, "a", "--wait", "5s") == 0
    assert served.fleet["a"].order is order
    assert await served.run("enable", "a", "--json") == 0
    assert served.fleet["a"].order is Order.ENABLED
    assert '"name": "a"' in capsys.readouterr().out


async def test_a_wait_that_ran_out_exits_1(served: Served, capsys: Capsys) -> None:
    served.fleet["a"].begin()
    assert await served.run("drain", "a", "--wait", "50ms") == 1
    assert "1 requests are still in flight after 0.05 s" in capsys.readouterr().err
    served.fleet["a"].end()


async def test_the_gateways_no_is_one_sentence_and_exits_1(served: Served, capsys: Capsys) -> None:
    assert await served.run("disable", "c") == 1
    assert capsys.readouterr().err == "mig-gateway: there is no slice 'c'; slices: a, b\n"
    assert await served.run("disable", "a") == 0
    served.fleet.registry.order(served.fleet["a"], Order.DISABLED, "test")
    assert await served.run("disable", "b") == 1
    assert "last slice that can serve" in capsys.readouterr().err
    assert await served.run("disable", "b", "--force") == 0


async def test_a_name_with_odd_characters_stays_one_name(served: Served, capsys: Capsys) -> None:
    assert await served.run("disable", "../a?force=true") == 1
    assert "there is no" in capsys.readouterr().err
    assert served.fleet["a"].order is Order.ENABLED


def test_a_verb_without_a_name_exits_2(capsys: Capsys) -> None:
    assert main(["slices", "drain"]) == 2
    assert "NAME is missing" in capsys.readouterr().err


def test_a_gateway_that_is_not_there_is_said_in_one_sentence(capsys: Capsys) -> None:
    with socket.socket() as unused:  # bound and not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{unused.getsockname()[1]}"
        assert main(["slices", "--admin", url]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"mig-gateway: no gateway's admin API at http://{url} (")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"[]", "it answered no JSON object"),
        (200, b"<html>", "no gateway's admin API"),
        (200, b"{}", "the answer has no 'slices'"),
        (404, b"<html>", "/v1/slices answered 404"),
        (500, b"{}", "/v1/slices answered 500"),
    ],
)
async def test_a_stranger_at_that_address_is_said_in_one_sentence(
    capsys: Capsys, status: int, body: bytes, said: str
) -> None:
    stranger = await ScriptedTriton().start()
    stranger.index_status, stranger.index_body = status, body
    url = f"127.0.0.1:{stranger.port}"
    assert await asyncio.to_thread(main, ["slices", "--admin", url]) == 1
    await stranger.stop()
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("url", ["ftp://h:1", "file:///etc/passwd"])
def test_what_is_no_http_address_is_refused(url: str, capsys: Capsys) -> None:
    assert main(["slices", "--admin", url]) == 1
    assert "is no http address" in capsys.readouterr().err


async def test_the_address_may_come_from_the_configuration(
    served: Served, config: Path, capsys: Capsys
) -> None:
    text = GOOD + f'admin: {{listen: "127.0.0.1:{served.server.port}"}}\n'
    await asyncio.to_thread(config.write_text, text)
    assert await asyncio.to_thread(main, ["slices", "--config", str(config), "--json"]) == 0
    assert '"name": "a"' in capsys.readouterr().out
