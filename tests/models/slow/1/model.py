"""Returns its input unchanged, late, or takes its server with it."""

import json
import os
import signal
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Called by Triton: `execute` for each turn."""

    def execute(self, requests: list) -> list:
        """Return one response for each request, in order, each after its own delay."""
        responses = []
        for request in requests:
            parameters = json.loads(request.parameters() or "{}")
            if parameters.get("kills_server"):
                os.kill(os.getppid(), signal.SIGKILL)  # the stub's parent is Triton
            time.sleep(int(parameters.get("delay_ms", 0)) / 1000)
            content = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            output = pb_utils.Tensor("OUTPUT0", content)
            responses.append(pb_utils.InferenceResponse(output_tensors=[output]))
        return responses
