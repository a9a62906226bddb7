"""Adds up the values of each sequence."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Called by Triton: `initialize` once, then `execute` for each turn."""

    def initialize(self, args: dict[str, str]) -> None:
        """Begin with no sequence."""
        self.sums: dict[int, int] = {}

    def execute(self, requests: list) -> list:
        """Return one response for each request, in order."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: object) -> object:
        def value(name: str) -> int:
            return int(pb_utils.get_input_tensor_by_name(request, name).as_numpy().flat[0])

        correlation_id = value("CORRID")
        if value("START"):
            # Also after a sequence that timed out: Triton gives its id to a new one.
            self.sums[correlation_id] = 0
        if correlation_id not in self.sums:
            error = pb_utils.TritonError(f"sequence {correlation_id} was not started here")
            return pb_utils.InferenceResponse(error=error)
        self.sums[correlation_id] += value("INPUT")
        output = pb_utils.Tensor("OUTPUT", np.array([self.sums[correlation_id]], np.int32))
        if value("END"):
            del self.sums[correlation_id]
        return pb_utils.InferenceResponse(output_tensors=[output])
