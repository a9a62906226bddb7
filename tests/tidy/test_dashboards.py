"""Grafana's dashboards, which nothing here shows, ask for what there is."""

import json
import re
from pathlib import Path

from gateway.control.exposition import PREFIX

ROOT = Path(__file__).parents[2]


def test_dashboards_ask_for_what_the_gateway_tells() -> None:
    """Names of figures are in the source that writes them, or Triton's."""
    written = (ROOT / "gateway/control/exposition.py").read_text()
    folder = ROOT / "configs/compose/grafana/dashboards"
    asked = {
        name
        for path in folder.glob("*.json")
        for panel in json.loads(path.read_text())["panels"]
        for target in panel["targets"]
        for name in re.findall(rf"{PREFIX}[a-z_]+", target["expr"])
    }
    assert len(asked) > 10
    unknown = [
        name
        for name in asked
        if f'"{name.removeprefix(PREFIX).removesuffix("_bucket")}"' not in written
    ]
    assert unknown == []
