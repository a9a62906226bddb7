"""Medians, ratios, and what is written for later."""

import json

import pytest

from bench import diff, report
from bench.cells import choose
from bench.load import LoadResult
from bench.measure import Durations, Measurements, Sample

FACTS = {
    "when": "2026-01-01T00:00:00+00:00",
    "commit": "abc",
    "cpu": "a CPU",
    "cores": 2,
    "kernel": "6.1",
    "python": "3.11.7",
    "pinning": "not pinned",
    "load_average_before": [0.1, 0.2, 0.3],
    "versions": {"envoy": "Envoy 1.40.0"},
}


def sample(cpu_us, errors=0):
    return Sample(LoadResult(1000, errors, 2.0, 500, 900), cpu_us, 0.8, 64 * report.MIB)


def run_of(**cpu_us):
    """Return a run of one cell: CPU per round of each proxy, `_` in names for `-`."""
    cells = choose(["grpc-512"])
    samples = {
        name.replace("_", "-"): [sample(value) for value in values]
        for name, values in cpu_us.items()
    }
    p50_us = {"direct": [100.0, 110.0, 120.0], **{name: [200.0, 210.0, 230.0] for name in samples}}
    found = Measurements({"grpc-512": samples}, {"grpc-512": p50_us})
    return report.Run(FACTS, 7, 3, Durations(1, 5, 2), cells, found)


def test_ratios_are_of_medians_and_the_best_peer_is_never_the_gateway():
    run = run_of(gateway=[9, 10, 30], envoy=[40, 41, 39], haproxy=[20, 20, 20])
    by_proxy = {row.proxy: row for row in report.rows(run, run.cells[0])}
    row = by_proxy["gateway"]
    assert (row.cpu_us, row.to_yardstick, row.to_best_peer) == (10, 0.25, 0.5)
    assert (row.cpu_us_low, row.cpu_us_high, row.requests_per_s) == (9, 30, 500)
    assert (row.added_p50_us, row.added_to_yardstick) == (100, 1.0)
    assert list(by_proxy) == ["envoy", "haproxy", "gateway"]


def test_without_envoy_there_is_no_ratio_to_it():
    run = run_of(gateway=[10], nginx=[20])
    rows = {row.proxy: row for row in report.rows(run, run.cells[0])}
    assert rows["gateway"].to_yardstick is None
    assert rows["gateway"].to_best_peer == 0.5


def test_errors_of_all_rounds_are_counted():
    run = run_of(envoy=[40])
    run.found.samples["grpc-512"]["envoy"].append(sample(40, errors=3))
    assert run.errors == 3


def test_the_json_has_every_round_and_diff_reads_it(tmp_path):
    file = tmp_path / "new" / "compare.json"
    report.save_json(run_of(envoy=[40, 41], gateway=[10, 11]), file)
    document = diff.load(file)
    assert document["cells"]["grpc-512"]["rounds"]["gateway"][1]["cpu_us"] == 11
    assert document["machine"]["commit"] == "abc"


def test_markdown_tables_have_one_line_per_proxy():
    text = report.markdown(run_of(envoy=[40], gateway=[10]))
    assert "| gRPC 512 B | gateway | 10.0 | 0% | 0.25 | 0.25 | 500 | 80% | 64 | 0 |" in text
    assert "| gRPC 512 B | envoy | 0.50 | 0.90 | 100 | 1.00 |" in text


@pytest.mark.parametrize(
    ("after", "verdict"),
    [([10, 10, 10], "within the noise"), ([5, 5, 5], "cheaper"), ([15, 15, 15], "DEARER")],
)
def test_a_change_counts_when_it_is_larger_than_the_spread(tmp_path, after, verdict):
    documents = []
    for number, gateway in enumerate(([10, 10, 11], after)):
        file = tmp_path / f"{number}.json"
        # Envoy twice as dear in the second run: another machine, not another gateway.
        scale = number + 1
        report.save_json(
            run_of(envoy=[40 * scale] * 3, gateway=[value * scale for value in gateway]), file
        )
        documents.append(diff.load(file))
    (change,) = diff.changes(*documents)
    assert (change.proxy, change.relative, change.verdict) == ("gateway", True, verdict)


def test_the_spread_of_the_yardstick_is_noise_of_the_ratio(tmp_path):
    documents = []
    for envoy in ([40, 40, 40], [40, 50, 60]):
        file = tmp_path / f"{envoy[1]}.json"
        report.save_json(run_of(envoy=envoy, gateway=[10, 10, 10]), file)
        documents.append(diff.load(file))
    (change,) = diff.changes(*documents)
    assert change.share == pytest.approx(-0.2)
    assert (change.noise, change.verdict) == (0.4, "within the noise")


def test_diff_refuses_what_is_no_result(tmp_path):
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"version": 99}))
    with pytest.raises(ValueError, match=r"x\.json: not a result of bench\.compare"):
        diff.load(file)
    assert diff.main([str(file), str(file)]) == 2
