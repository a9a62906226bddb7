"""Returns its input unchanged, late, or not at all, as a file says."""

import os
import time
from pathlib import Path

import triton_python_backend_utils as pb_utils

MOOD = Path(os.environ.get("MOOD", os.devnull))


class TritonPythonModel:
    """Called by Triton: `execute` for each turn."""

    def execute(self, requests: list) -> list:
        """Return one response for each request, in order."""
        try:
            mood = MOOD.read_text()
        except FileNotFoundError:
            mood = ""
        if mood == "fail":
            error = pb_utils.TritonError("it is in a bad mood", pb_utils.TritonError.INTERNAL)
            return [pb_utils.InferenceResponse(error=error) for _ in requests]
        responses = []
        for request in requests:
            time.sleep(float(mood or 0))
            content = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            output = pb_utils.Tensor("OUTPUT0", content)
            responses.append(pb_utils.InferenceResponse(output_tensors=[output]))
        return responses
