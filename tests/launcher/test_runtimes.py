"""Runtimes by name."""

from launcher.processes import ProcessRuntime
from launcher.runtimes import open_runtime


def test_a_process_is_the_runtime_there_is(tmp_path):
    assert isinstance(open_runtime("process", tmp_path), ProcessRuntime)
