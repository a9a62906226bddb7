"""What is in configs/ for Prometheus and Grafana is sound, and asks for metrics that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from gateway.control.exposition import ProcessFigures, exposition
from gateway.fleet.queue_report import report
from gateway.metrics import Counters
from tests.gateway.making import Fleet
from tests.support.metrics import documented
from tools.draw_dashboard import dashboard

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "configs" / "prometheus"
DASHBOARD = ROOT / "configs" / "grafana" / "mig-gateway.json"
NAME = re.compile(r"mig_gateway_\w+")


def promtool(*words: str) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.fail(
            "alert rules are checked by promtool, and there is none: `apt-get install prometheus`",
            pytrace=False,
        )
    done = subprocess.run(
        [program, *words], check=False, cwd=PROMETHEUS, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stdout + done.stderr


def exposed() -> dict[str, str]:
    """Return each metric there is, with its kind."""
    fleet = Fleet("a")
    counters = Counters()
    counters.fault("x")
    counters.limit("x")
    figures = ProcessFigures(1, 1, 1, 1)
    text = exposition(
        fleet.registry.slices.values(), counters, {"a": (1, 0)}, figures, {}, {("a", "added"): 1},
        queues=report(fleet.registry.queues),
    )  # fmt: skip
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))


def known(name: str) -> bool:
    kinds = exposed()
    return name in kinds or any(
        name == f"{histogram}_{suffix}"
        for histogram, kind in kinds.items()
        if kind == "histogram"
        for suffix in ("bucket", "sum", "count")
    )


def test_promtool_finds_nothing_wrong() -> None:
    promtool("check", "config", "--lint=all", "--lint-fatal", "prometheus.yml")
    promtool("test", "rules", "alerts.test.yml")


def test_alerts_ask_for_metrics_that_there_are() -> None:
    rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
    asked = {name for rule in rules for name in NAME.findall(rule["expr"])}
    assert asked
    assert [name for name in asked if not known(name)] == []


def test_the_dashboard_is_as_it_is_drawn_and_asks_for_metrics_that_there_are(
    tmp_path: Path,
) -> None:
    kept = json.loads(DASHBOARD.read_text())
    assert kept == dashboard(), "python -m tools.draw_dashboard configs/grafana/mig-gateway.json"
    queries = [target["expr"] for panel in kept["panels"] for target in panel["targets"]]
    assert [n for query in queries for n in NAME.findall(query) if not known(n)] == []
    rules = [
        {"record": f"panel:{at}", "expr": query.replace("$__rate_interval", "1m")}
        for at, query in enumerate(queries)
    ]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(path))


def test_metrics_are_named_by_convention() -> None:
    """Counters end in _total, and units are base units: Prometheus, "Metric and label naming"."""
    for name, kind in exposed().items():
        assert (kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(ms|us|millis\w*|kib|mib|percent)(_|$)", name), name


def test_every_metric_is_documented_and_no_other() -> None:
    assert set(exposed()) == documented()
