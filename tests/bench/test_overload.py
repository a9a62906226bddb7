"""The overload experiment's arguments and its figure."""

import xml.etree.ElementTree as ElementTree

import pytest

from bench import overload
from bench.figure import HEIGHT, WIDTH, Series, chart
from bench.open_loop import Outcome

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("log", [True, False])
def test_a_chart_is_svg_with_every_point_on_it(log: bool) -> None:
    lines = [Series("a & b", [(0.5, 3.0), (1.0, 40.0), (3.0, 900.0)]), Series("c", [(3.0, 1.0)])]
    root = ElementTree.fromstring(chart("t < u", "x", "y", lines, log=log))
    drawn = root.findall(f"{SVG}polyline")
    assert len(drawn) == 2
    for line in drawn:
        points = [tuple(map(float, at.split(","))) for at in line.attrib["points"].split()]
        assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in points)
        assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert {"t < u", "a & b", "c"} <= {text.text for text in root.findall(f"{SVG}text")}


def test_loads_are_given_in_capacities(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        overload.main(["--loads", "0.5,-1"])
    assert stopped.value.code == 2
    assert "capacities" in capsys.readouterr().err


def test_what_is_refused_is_told_as_a_share_of_what_counts() -> None:
    outcome = Outcome([0.1] * 30, [0.0] * 30, errors=12, counted_errors=10)
    figures = overload._figures(1.5, outcome)
    assert figures["refused_share"] == 0.25
    assert figures["p99_ms"] == pytest.approx(100.0)
