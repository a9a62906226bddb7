"""Output that fails is lost, and nothing else."""

import io
import os

from launcher.output import unbreakable


def test_what_can_be_written_is_written():
    out = io.StringIO()
    print("text", file=unbreakable(out), flush=True)
    assert out.getvalue() == "text\n"
    assert not unbreakable(out).isatty()


def test_a_reader_that_left_and_a_closed_stream_are_no_failure():
    reader, writer = os.pipe()
    os.close(reader)
    broken = os.fdopen(writer, "w", buffering=1)
    print("lost", file=unbreakable(broken), flush=True)
    closed = io.StringIO()
    closed.close()
    print("lost", file=unbreakable(closed), flush=True)
    assert not unbreakable(closed).isatty()
    try:
        broken.close()
    except BrokenPipeError:
        pass
