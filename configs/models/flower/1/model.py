"""The flower model as Triton's Python backend runs it; the arithmetic is in network.py."""

from pathlib import Path

import triton_python_backend_utils as pb_utils
from network import Network


class TritonPythonModel:
    """Called by Triton: `initialize` once, then `execute` for each turn."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the weights beside this file."""
        self.network = Network.load(Path(__file__).with_name("weights.npz"))

    def execute(self, requests: list) -> list:
        """Return one response for each request, in order."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: object) -> object:
        pictures = pb_utils.get_input_tensor_by_name(request, "input").as_numpy()
        probabilities = self.network.probabilities(pictures)
        output = pb_utils.Tensor("probabilities", probabilities)
        return pb_utils.InferenceResponse(output_tensors=[output])
