"""One log format: JSON lines in files, text in a terminal, on standard error."""

import io
import json

import pytest
import structlog

from contract import logs


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def restored():
    yield
    structlog.reset_defaults()


def written(stream, **settings):
    logs.configure(stream=stream, **settings)
    structlog.get_logger().info("server.ready", slice="s0", after_s=1.5)
    return stream.getvalue()


def test_in_a_file_a_line_is_json():
    line = json.loads(written(io.StringIO()))
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "server.ready", "level": "info", "slice": "s0", "after_s": 1.5}


def test_in_a_terminal_it_is_text():
    assert "server.ready" in written(Terminal())
    assert not written(Terminal()).startswith("{")
    assert written(Terminal(), form="json").startswith("{")


def test_what_is_below_the_level_is_not_written():
    assert written(io.StringIO(), level="warning") == ""


def test_standard_output_stays_free(capsys):
    logs.configure()
    structlog.get_logger().info("server.ready")
    out, err = capsys.readouterr()
    assert out == ""
    assert "server.ready" in err


def test_a_failure_has_its_trace():
    stream = io.StringIO()
    logs.configure(stream=stream)
    try:
        raise ValueError("oops")
    except ValueError:
        structlog.get_logger().exception("server.died")
    assert "ValueError: oops" in json.loads(stream.getvalue())["exception"]
