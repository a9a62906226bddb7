"""Progress as lines, as a live display, and through a pipe."""

import io
import json

import pytest
from rich.console import Console

from launcher.progress import LiveProgress, PipeProgress, PlainProgress, replay


def tell(progress):
    progress.step("planning")
    progress.starting(["s0", "s1"])
    progress.ready("s1", 1.84)
    progress.up()


def test_lines():
    out = io.StringIO()
    tell(PlainProgress(out))
    assert out.getvalue() == "planning\nstarting s0, s1\ns1 ready after 1.8 s\n"


def test_through_a_pipe_it_arrives_as_it_was_sent():
    pipe, out = io.StringIO(), io.StringIO()
    tell(PipeProgress(pipe))
    plain = PlainProgress(out)
    assert [replay(line, plain) for line in pipe.getvalue().splitlines()] == [None] * 4
    assert out.getvalue() == "planning\nstarting s0, s1\ns1 ready after 1.8 s\n"


def test_a_failure_arrives_with_its_code():
    pipe = io.StringIO()
    PipeProgress(pipe).failed("no room", 2)
    assert json.loads(pipe.getvalue()) == ["failed", "no room", 2]
    assert replay(pipe.getvalue(), PlainProgress(io.StringIO())) == ("no room", 2)


def test_a_watcher_that_left_does_not_stop_the_work():
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    PipeProgress(Gone()).step("planning")


@pytest.mark.parametrize("fails", [False, True])
def test_in_a_terminal_log_lines_move_above_the_display_and_back(fails):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    streams = []
    try:
        with LiveProgress(console, streams.append) as live:
            tell(live)
            if fails:
                raise ValueError
    except ValueError:
        pass
    assert "ready after 1.8 s" in screen.getvalue()
    assert streams[0] is not streams[-1]
