"""What was measured is kept, read again, and told in perf_analyzer's columns."""

import csv
import io
import json
from pathlib import Path

import pytest

from contract.slice_spec import Endpoint
from gateway.figures import drawing, perf_analyzer
from gateway.figures.points import COLUMNS, FILE, Point, Record, as_csv, from_csv, needed
from gateway.flowers.asking import AskError

CONDITIONS = {
    "simulated": True, "service_ms": 10.0, "model": "timed", "protocol": "HTTP",
    "tool": "built-in load", "layout": "7 x 1g.5gb",
}  # fmt: skip


def point(slices: int, concurrency: int, p90_ms: float = 10.0) -> Point:
    us = 1e3 * p90_ms
    return Point(slices, concurrency, 100.0 * slices, 0, us / 2, us, us, 2 * us, 1, 2, 3, 4, 5)


def test_a_run_that_was_broken_off_goes_on_under_the_same_conditions_only(tmp_path: Path) -> None:
    record = Record(tmp_path, CONDITIONS)
    assert not record.resume()
    record.add(point(1, 4))
    record.add(point(2, 4))
    record.add(point(2, 4, 9.0), direct=True)
    again = Record(tmp_path, CONDITIONS)
    assert again.resume()
    assert again.points == record.points
    assert again.direct == {(2, 4): point(2, 4, 9.0)}
    assert not Record(tmp_path, {**CONDITIONS, "model": "other"}).resume()
    (tmp_path / FILE).write_text("{")
    assert not Record(tmp_path, CONDITIONS).resume()


def test_a_csv_has_perf_analyzers_columns_and_is_read_as_its(tmp_path: Path) -> None:
    text = as_csv([point(1, 1), point(1, 2)])
    rows = list(csv.reader(io.StringIO(text)))
    assert tuple(rows[0]) == COLUMNS
    assert from_csv(text, 1) == point(1, 2)


def test_a_budget_needs_the_fewest_slices_that_keep_it() -> None:
    points = [point(1, 1, 10), point(2, 1, 5), point(1, 9, 90), point(2, 9, 45), point(2, 50, 250)]
    assert needed(points, 50.0) == {1: 1, 9: 2, 50: None}


def test_everything_drawn_is_stamped_and_stands_alone(tmp_path: Path) -> None:
    record = Record(tmp_path, CONDITIONS)
    for slices in (1, 2):
        for concurrency in (1, 4):
            record.add(point(slices, concurrency))
    files = drawing.draw(record, 50.0)
    assert [file.name for file in files] == [
        "throughput.png", "latency.png", "budget.png", "figures.html",
    ]  # fmt: skip
    assert files[0].read_bytes().startswith(b"\x89PNG")
    page = files[-1].read_text()
    assert "SIMULATED" in page
    assert page.count("<svg") == 3
    assert "<script" not in page
    assert "src=" not in page
    assert json.dumps(CONDITIONS["layout"])[1:-1] in page


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Something that behaves like perf_analyzer."""
    path = tmp_path / "perf_analyzer"
    (tmp_path / "answer.csv").write_text(as_csv([point(3, 8)]))
    path.write_text(
        "#!/bin/sh\n"
        f'echo "$@" > {tmp_path}/arguments\n'
        'while [ "$1" != -f ]; do shift; done\n'
        f'cp {tmp_path}/answer.csv "$2"\n'
    )
    path.chmod(0o755)
    return path


def measured(program: Path, folder: Path) -> Point:
    return perf_analyzer.measure(
        str(program), Endpoint("h", 5), "flower", over_grpc=True, slices=3, concurrency=8,
        seconds=2.0, folder=folder / "out",
    )  # fmt: skip


def test_perf_analyzer_is_used_and_its_csv_kept(program: Path, tmp_path: Path) -> None:
    assert measured(program, tmp_path) == point(3, 8)
    assert (tmp_path / "out" / "perf_analyzer-3-8.csv").exists()
    words = (tmp_path / "arguments").read_text()
    for part in ("-m flower", "-u h:5", "-i grpc", "--concurrency-range 8:8", "interval 2000"):
        assert part in words


def test_a_perf_analyzer_that_fails_is_said(program: Path, tmp_path: Path) -> None:
    program.write_text("#!/bin/sh\necho no such model >&2\nexit 3\n")
    with pytest.raises(AskError, match="ended with 3: no such model"):
        measured(program, tmp_path)
