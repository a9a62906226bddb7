"""`mig-gateway top` shows what the live page shows."""

import asyncio
import io
from typing import Any

from rich.console import Console

from gateway.cli import main
from gateway.control import live
from gateway.terminal.top import Screen
from tests.gateway.test_cli import Capsys, Served, served

__all__ = ["served"]


def shown(screen: Screen) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(screen.drawn())
    return console.export_text()


async def test_one_look_is_printed_where_nobody_watches(
    served: Served, capsys: Capsys, monkeypatch: Any
) -> None:
    monkeypatch.setattr(live, "SAMPLE_S", 0.05)
    served.fleet["a"].http_requests = 1234
    assert await served.command("top") == 0
    out = capsys.readouterr().out
    assert "2 of 2 slices can serve" in out
    assert "1,234" in out


async def test_no_gateway_is_said_in_one_sentence(served: Served, capsys: Capsys) -> None:
    url = served.url
    await served.server.close()
    assert await asyncio.to_thread(main, ["top", "--once", "--admin", url]) == 1
    assert capsys.readouterr().err.startswith("mig-gateway: no gateway's admin API at ")


def test_what_changes_is_shown_and_what_it_was_that_happened() -> None:
    screen = Screen()
    assert "connecting" in shown(screen)
    view = {
        "name": "s0", "state": "ready", "profile": "1g.5gb", "models": [], "in_flight": 0,
        "requests": 7, "failures": 0, "reason": "live", "simulated": True,
    }  # fmt: skip
    gateway = {
        "ready": True, "routable": 1, "reason": "1 of 1 slices can serve", "policy": "least_load",
        "waiting": 5, "connections": 3, "faults": {"no_slice": 2},
    }  # fmt: skip
    screen.take("snapshot", {"gateway": gateway, "slices": [view], "events": []})
    assert "simulated" in shown(screen)
    event = {
        "name": "s0", "event": "health", "from": "up", "to": "down", "state": "unready",
        "reason": "[refused]", "time": "2026-01-02T03:04:05.678+00:00",
    }  # fmt: skip
    screen.take("change", event)
    curve = {"rate": 250.0, "p50": 1.234, "p99": None, "failures": 0.0, "busy": 2.0}
    screen.take(
        "tick",
        {
            "gateway": {"ready": False, "routable": 0, "reason": "none of 1 slices can serve"},
            "slices": {"s0": {"state": "unready", "in_flight": 4, "failures": 1}},
            "sample": {"all": curve, "slices": {"s0": curve}},
        },
    )
    text = shown(screen)
    for words in (
        "none of 1 slices",
        "unready",
        "250",
        "1.23",
        "03:04:05",
        "up → down",
        "[refused]",
    ):
        assert words in text
    screen.take("tick", {"gateway": {}, "slices": {}, "order": []})
    assert "unready" not in shown(screen).partition("03:04")[0]
    screen.trouble = "gone"
    assert "gone; trying again" in shown(screen)
