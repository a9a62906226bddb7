"""Reasons are read from Triton's log as Triton 2.51 writes it."""

import pytest

from launcher.triton_log import REASON_CHARS_MAX, explain, hopeless

HEAD = (
    'W1121 05:10:38.520660 4864 pinned_memory_manager.cc:273] "Unable to allocate pinned memory"\n'
    'E1121 05:10:38.520982 4864 server.cc:241] "CudaDriverHelper has not been initialized."\n'
)
TAIL = "error: creating server: Internal - failed to load all models\n"
PYTHON_FAILS = (
    "E1121 05:10:38.546641 4864 model_lifecycle.cc:642] \"failed to load 'broken' version 1: "
    'Internal: ValueError: no weights here\\n\\nAt:\\n  /m/model.py(1): <module>\\n"\n'
    "I1121 05:10:38.546680 4864 model_lifecycle.cc:777] \"failed to load 'broken'\"\n"
)
NO_BACKEND = (
    "E1121 05:11:27.650533 5070 model_lifecycle.cc:642] \"failed to load 'net' version 1: "
    "Invalid argument: unable to find backend library for backend 'onnxruntime'.\"\n"
)
BAD_CONFIG = (
    'E1121 05:11:06.528846 5045 model_repository_manager.cc:1460] "Poll failed for model '
    "directory 'cfg': failed to read text proto from b2/cfg/config.pbtxt\"\n"
)
PORT_TAKEN = (
    'E1121 05:11:31.766568 5117 main.cc:245] "failed to start GRPC service: '
    "Unavailable - Socket '127.0.0.1:18101' already in use \"\n"
)
NO_FILE = (
    "I1121 05:11:59.302995 5287 pb_stub.cc:2105]  Failed to preinitialize Python stub: "
    "Python model file not found in 'b3/nomodel/1/model.py'\n"
)
NO_LIBPYTHON = (
    "/c/triton_python_backend_stub: error while loading shared libraries: libpython3.12.so.1.0: "
    "cannot open shared object file: No such file or directory\n"
)


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (HEAD + PYTHON_FAILS + TAIL, "model 'broken' does not load: ValueError: no weights here"),
        (
            HEAD + PYTHON_FAILS + NO_BACKEND + TAIL,
            "model 'broken' does not load: ValueError: no weights here; model 'net' does not load: "
            "Invalid argument: unable to find backend library for backend 'onnxruntime'.",
        ),
        (
            HEAD + BAD_CONFIG + TAIL,
            "model 'cfg' does not load: failed to read text proto from b2/cfg/config.pbtxt",
        ),
        (
            HEAD + PORT_TAKEN,
            "its GRPC service cannot start: Socket '127.0.0.1:18101' already in use",
        ),
        (
            HEAD + "error: creating server: Internal - failed to stat file /nope\n",
            "creating server: Internal - failed to stat file /nope",
        ),
        (
            "/b/tritonserver: unrecognized option '--nonsense=1'\nUsage: tritonserver\n",
            "this tritonserver has no option --nonsense=1",
        ),
        (HEAD, "CudaDriverHelper has not been initialized."),
        ("", "it said nothing"),
    ],
)
def test_the_reason_for_an_end(log, reason):
    assert explain(log) == reason


def test_what_makes_triton_wait_for_ever_is_seen_while_it_runs():
    assert hopeless(HEAD + NO_FILE) == (
        "a Python model does not load: Python model file not found in 'b3/nomodel/1/model.py'"
    )
    assert hopeless(HEAD + NO_LIBPYTHON).startswith(
        "triton_python_backend_stub does not find a shared library: libpython3.12.so.1.0"
    )
    assert hopeless(HEAD + PYTHON_FAILS) is None


def test_a_reason_is_bounded():
    log = PYTHON_FAILS.replace("no weights here", "x" * 10_000)
    assert len(explain(log)) == REASON_CHARS_MAX
