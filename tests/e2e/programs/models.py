"""
The models that the example programs of Triton's client package ask for, by their names and tensors.

Written anew for the Python backend: what goes in and what comes out is as the programs expect it.
"""

from pathlib import Path

ADDS = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        kind = {"simple_int8": "TYPE_INT8", "simple_string": "TYPE_STRING"}.get(
            config.as_dict()["name"], "TYPE_INT32"
        )
        for number in "01":
            config.add_input({"name": f"INPUT{number}", "data_type": kind, "dims": [16]})
            config.add_output({"name": f"OUTPUT{number}", "data_type": kind, "dims": [16]})
        return config

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        a, b = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in ("INPUT0", "INPUT1")
        )
        kind = a.dtype
        if kind == object:
            a, b = a.astype(np.int32), b.astype(np.int32)
        outputs = []
        for name, value in (("OUTPUT0", a + b), ("OUTPUT1", a - b)):
            if kind == object:
                value = value.astype(str).astype(object)
            outputs.append(pb_utils.Tensor(name, value.astype(kind)))
        return pb_utils.InferenceResponse(outputs)
"""

SAME = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(
                "OUTPUT0", pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            )])
            for request in requests
        ]
"""

SEQUENCE = '''
import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The input, one more at the START; `dyna` models add the correlation id at the END."""

    def initialize(self, args):
        self.name = json.loads(args["model_config"])["name"]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        def value(name):
            return pb_utils.get_input_tensor_by_name(request, name).as_numpy()

        sent = value("INPUT")
        told = sent.copy()
        if value("START").flat[0]:
            told = told + 1
        if "dyna" in self.name and value("END").flat[0]:
            told = told + int(value("CORRID").flat[0])
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", told.astype(np.int32))])
'''

REPEATS = """
import asyncio

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    async def execute(self, requests):
        await asyncio.gather(*(self.answer(request) for request in requests))

    async def answer(self, request):
        def value(name):
            return pb_utils.get_input_tensor_by_name(request, name).as_numpy()

        sender = request.get_response_sender()
        for index, (each, delay_ms) in enumerate(zip(value("IN"), value("DELAY"))):
            await asyncio.sleep(int(delay_ms) / 1000)
            if sender.is_cancelled():
                break
            sender.send(pb_utils.InferenceResponse([
                pb_utils.Tensor("OUT", np.array([each], np.int32)),
                pb_utils.Tensor("IDX", np.array([index], np.uint32)),
            ]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def _tensors(*tensors: tuple[str, str, str]) -> str:
    """Return `input` and `output` sections for (section, names, type and dims)."""
    return "".join(
        f'{section} {{ name: "{name}" {shape} }}\n'
        for section, names, shape in tensors
        for name in names.split()
    )


def _two(kind: str) -> str:
    shape = f"data_type: {kind} dims: [ 16 ]"
    return _tensors(("input", "INPUT0 INPUT1", shape), ("output", "OUTPUT0 OUTPUT1", shape))


def _sequence(*controls: str) -> str:
    shape = "data_type: TYPE_INT32 dims: [ 1 ]"
    return _tensors(("input", "INPUT", shape), ("output", "OUTPUT", shape)) + (
        f"sequence_batching {{ max_sequence_idle_microseconds: 5000000 oldest {{ }} "
        f"{' '.join(controls)} }}\n"
    )


def _flag(name: str) -> str:
    return (
        f'control_input {{ name: "{name}" control {{ kind: CONTROL_SEQUENCE_{name} '
        "int32_false_true: [ 0, 1 ] } }"
    )


_CORRID = (
    'control_input { name: "CORRID" control { kind: CONTROL_SEQUENCE_CORRID '
    "data_type: TYPE_UINT64 } }"
)
_STRING = "data_type: TYPE_STRING dims: [ 16 ]"
_REPEAT = (
    ("input", "IN", "data_type: TYPE_INT32 dims: [ -1 ]"),
    ("input", "DELAY", "data_type: TYPE_UINT32 dims: [ -1 ]"),
    ("input", "WAIT", "data_type: TYPE_UINT32 dims: [ 1 ]"),
    ("output", "OUT", "data_type: TYPE_INT32 dims: [ 1 ]"),
    ("output", "IDX", "data_type: TYPE_UINT32 dims: [ 1 ]"),
)

MODELS = {
    "simple": (8, _two("TYPE_INT32"), ADDS),
    "simple_int8": (8, _two("TYPE_INT8"), ADDS),
    "simple_string": (8, _two("TYPE_STRING"), ADDS),
    "simple_identity": (
        8, _tensors(("input", "INPUT0", _STRING), ("output", "OUTPUT0", _STRING)), SAME
    ),
    "simple_sequence": (8, _sequence(_flag("START")), SEQUENCE),
    "simple_dyna_sequence": (
        8, _sequence(_flag("START"), _flag("END"), _CORRID), SEQUENCE
    ),
    "repeat_int32": (
        0, _tensors(*_REPEAT) + "model_transaction_policy { decoupled: true }\n", REPEATS
    ),
}  # fmt: skip
"""
(largest batch, the rest of its configuration, program) by name. There is no model that is told a
correlation id that is text: Triton 2.51 cannot make that tensor.
"""


def build(folder: Path) -> Path:
    """Write a repository of all of them; return `folder`."""
    for name, (batch, config, program) in MODELS.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.py").write_text(program)
        (folder / name / "config.pbtxt").write_text(
            f'name: "{name}"\nbackend: "python"\nmax_batch_size: {batch}\n{config}'
            "instance_group { count: 1 kind: KIND_CPU }\n"
        )
    return folder
