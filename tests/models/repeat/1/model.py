"""Answers one request with many responses."""

import asyncio

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Called by Triton: `execute` for each turn."""

    async def execute(self, requests: list) -> None:
        """Answer all requests at once; each ends with an empty final response."""
        await asyncio.gather(*(self._answer(request) for request in requests))

    async def _answer(self, request: object) -> None:
        values = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
        delays = pb_utils.get_input_tensor_by_name(request, "DELAY").as_numpy()
        sender = request.get_response_sender()
        for index, (value, delay_ms) in enumerate(zip(values, delays, strict=True)):
            await asyncio.sleep(int(delay_ms) / 1000)
            if sender.is_cancelled():
                break
            outputs = [
                pb_utils.Tensor("OUT", np.array([value], np.int32)),
                pb_utils.Tensor("IDX", np.array([index], np.uint32)),
            ]
            sender.send(pb_utils.InferenceResponse(output_tensors=outputs))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
