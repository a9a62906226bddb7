"""Returns its input after `service_ms`: one request at a time, as one slice of a GPU would."""

import json
import time
from typing import Any

import triton_python_backend_utils as backend  # Triton brings it


class TritonPythonModel:
    def initialize(self, arguments: dict[str, str]) -> None:
        parameters = json.loads(arguments["model_config"])["parameters"]
        self._service_s = float(parameters["service_ms"]["string_value"]) / 1e3

    def execute(self, requests: list[Any]) -> list[Any]:
        responses = []
        for request in requests:
            time.sleep(self._service_s)
            given = backend.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            responses.append(backend.InferenceResponse([backend.Tensor("OUTPUT0", given)]))
        return responses
