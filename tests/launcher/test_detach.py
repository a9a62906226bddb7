"""The background process reports until everything is up, and its failures arrive whole."""

import contextlib
import io
import time

import pytest

from launcher import detach
from launcher.errors import LauncherError
from launcher.progress import PlainProgress


def run(work, tmp_path):
    out = io.StringIO()

    @contextlib.contextmanager
    def display():
        yield PlainProgress(out)

    return detach.in_background(work, display, tmp_path / "run" / "launcher.log"), out.getvalue()


def test_it_returns_when_all_is_up_and_the_work_goes_on(tmp_path):
    done = tmp_path / "done"

    def work(progress):
        progress.step("planning")
        progress.ready("s0", 1.0)
        progress.up()
        done.write_text("")
        return 0

    assert run(work, tmp_path) == (0, "planning\ns0 ready after 1.0 s\n")
    deadline_s = time.monotonic() + 10
    while not done.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_failure_has_its_own_words(tmp_path):
    def work(progress):
        raise LauncherError("port 8000 (HTTP of s0) is taken")

    with pytest.raises(LauncherError, match=r"^port 8000 \(HTTP of s0\) is taken$"):
        run(work, tmp_path)


def test_a_mistake_of_ours_is_told_and_its_trace_logged(tmp_path):
    def work(progress):
        raise ZeroDivisionError("oops")

    with pytest.raises(LauncherError, match=r"ZeroDivisionError\('oops'\); see .*launcher\.log"):
        run(work, tmp_path)
    assert "Traceback" in (tmp_path / "run" / "launcher.log").read_text()


def test_a_silent_end_is_told(tmp_path):
    with pytest.raises(LauncherError, match="ended unexpectedly"):
        run(lambda progress: 0, tmp_path)
