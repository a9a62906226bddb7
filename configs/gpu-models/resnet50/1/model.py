"""
ResNet-50 by PyTorch in half precision, captured as one CUDA graph; its weights are random.

The picture comes and the classes go through page-locked memory; the copies are part of the graph,
so a request costs one launch.
"""

from typing import Any

import torch
import torchvision
import triton_python_backend_utils as backend  # Triton brings it
from torch.fx.experimental.optimization import fuse

CLASSES = 102
WARM_UP = 20


class TritonPythonModel:
    def initialize(self, arguments: dict[str, str]) -> None:
        torch.manual_seed(50)
        torch.set_num_threads(1)
        model = fuse(torchvision.models.resnet50(num_classes=CLASSES).eval())
        model = model.half().cuda().to(memory_format=torch.channels_last)
        self._given = torch.zeros(1, 3, 224, 224).pin_memory()
        self._found = torch.zeros(1, CLASSES).pin_memory()
        on_gpu = torch.zeros(1, 3, 224, 224, device="cuda")

        def once() -> None:
            on_gpu.copy_(self._given, non_blocking=True)
            picture = on_gpu.half().contiguous(memory_format=torch.channels_last)
            self._found.copy_(model(picture).float().softmax(1), non_blocking=True)

        with torch.inference_mode():
            self._stream = torch.cuda.Stream()
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UP):
                    once()
            self._stream.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream):
                once()

    def execute(self, requests: list[Any]) -> list[Any]:
        responses = []
        for request in requests:
            given = backend.get_input_tensor_by_name(request, "input")
            self._given.copy_(torch.from_numpy(given.as_numpy()))
            with torch.cuda.stream(self._stream):
                self._graph.replay()
            self._stream.synchronize()
            found = backend.Tensor("probabilities", self._found.numpy())
            responses.append(backend.InferenceResponse([found]))
        return responses
