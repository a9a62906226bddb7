"""
Writes Grafana's dashboard: `python -m tools.draw_dashboard configs/grafana/mig-gateway.json`.

A dashboard is a page of JSON of which a dozen lines say something; those stand here.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

WIDTH: Final = 24
HEIGHT: Final = 8
_BUCKETS: Final = 'mig_gateway_slice_request_seconds_bucket{instance=~"$gateway"}'

PANELS: Final = (
    # title, unit, kind, width, ((query, legend), …)
    ("Slices that can serve", "none", "stat", 4,
     (('sum(mig_gateway_slice_state{instance=~"$gateway",state="ready"})', "ready"),)),
    ("Answers/s", "reqps", "stat", 4,
     (('sum(rate(mig_gateway_slice_request_seconds_count{instance=~"$gateway"}[$__rate_interval]))', "answers"),)),
    ("p99", "s", "stat", 4,
     ((f"histogram_quantile(0.99, sum by (le) (rate({_BUCKETS}[$__rate_interval])))", "p99"),)),
    ("In flight", "none", "stat", 4,
     (('sum(mig_gateway_slice_in_flight{instance=~"$gateway"})', "in flight"),)),
    ("Clients", "none", "stat", 4,
     (('sum(mig_gateway_connections{instance=~"$gateway"})', "connections"),)),
    ("Answered with an error /s", "reqps", "stat", 4,
     (('sum(rate(mig_gateway_faults_total{instance=~"$gateway"}[$__rate_interval]))', "faults"),)),
    ("Throughput by slice", "reqps", "stacked", 12,
     (('sum by (slice) (rate(mig_gateway_slice_request_seconds_count{instance=~"$gateway"}[$__rate_interval]))', "{{slice}}"),)),
    ("Latency of all answers", "s", "timeseries", 12,
     tuple((f"histogram_quantile({q}, sum by (le) (rate({_BUCKETS}[$__rate_interval])))", f"p{round(100 * q)}")
           for q in (0.5, 0.9, 0.99))),
    ("In flight by slice", "none", "stacked", 12,
     (('sum by (slice) (mig_gateway_slice_in_flight{instance=~"$gateway"})', "{{slice}}"),)),
    ("p99 by slice", "s", "timeseries", 12,
     ((f"histogram_quantile(0.99, sum by (slice, le) (rate({_BUCKETS}[$__rate_interval])))", "{{slice}}"),)),
    ("State of each slice", "none", "state-timeline", 12,
     (('mig_gateway_slice_state{instance=~"$gateway"} == 1', "{{slice}} {{state}}"),)),
    ("Failed attempts and requests sent again", "reqps", "timeseries", 12,
     (('sum by (slice) (rate(mig_gateway_slice_failures_total{instance=~"$gateway"}[$__rate_interval]))', "{{slice}} failed"),
      ('sum(rate(mig_gateway_replays_total{instance=~"$gateway"}[$__rate_interval]))', "sent again"))),
    ("Answered with an error, limits hit", "reqps", "timeseries", 12,
     (('sum by (code) (rate(mig_gateway_faults_total{instance=~"$gateway"}[$__rate_interval]))', "{{code}}"),
      ('sum by (limit) (rate(mig_gateway_limits_total{instance=~"$gateway"}[$__rate_interval]))', "limit {{limit}}"))),
    ("CPU and memory of the gateway", "none", "timeseries", 12,
     (('rate(mig_gateway_process_cpu_seconds_total{instance=~"$gateway"}[$__rate_interval])', "cores"),
      ('mig_gateway_process_resident_memory_bytes{instance=~"$gateway"} / 2^30', "GiB"))),
)  # fmt: skip


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana 9 and later read it."""
    panels: list[dict[str, Any]] = []
    x = y = 0
    for title, unit, kind, width, queries in PANELS:
        height = HEIGHT // 2 if kind == "stat" else HEIGHT
        panels.append(_panel(len(panels) + 1, title, unit, kind, queries))
        panels[-1]["gridPos"] = {"x": x, "y": y, "w": width, "h": height}
        x += width
        if x == WIDTH:
            x, y = 0, y + height
    return {
        "title": "MIG Gateway", "uid": "mig-gateway", "schemaVersion": 37, "editable": True,
        "refresh": "5s", "time": {"from": "now-15m", "to": "now"}, "tags": ["mig-gateway"],
        "templating": {"list": [
            {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
            {"name": "gateway", "type": "query", "label": "Gateway", "multi": True,
             "includeAll": True, "refresh": 2, "datasource": {"uid": "${source}"},
             "query": "label_values(mig_gateway_build_info, instance)"},
        ]},
        "panels": panels,
    }  # fmt: skip


def _panel(
    number: int, title: str, unit: str, kind: str, queries: tuple[tuple[str, str], ...]
) -> dict[str, Any]:
    custom: dict[str, Any] = {}
    if kind == "stacked":
        custom = {"fillOpacity": 60, "lineWidth": 1, "stacking": {"mode": "normal", "group": "A"}}
    return {
        "id": number, "title": title, "type": "timeseries" if kind == "stacked" else kind,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "fieldConfig": {"defaults": {"unit": unit, "custom": custom}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "expr": query, "legendFormat": legend}
            for at, (query, legend) in enumerate(queries)
        ],
    }  # fmt: skip


def main(arguments: list[str]) -> int:
    """Write the dashboard to the path given."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m tools.draw_dashboard JSON\n")
        return 2
    Path(arguments[0]).write_text(json.dumps(dashboard(), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
