"""Inputs for Triton's own clients."""

from typing import Any


def tensor(messages: Any, data: Any, name: str = "INPUT0", kind: str = "UINT8") -> Any:
    """Return `data` as an input of `messages`, tritonclient.http or tritonclient.grpc."""
    made = messages.InferInput(name, list(data.shape), kind)
    made.set_data_from_numpy(data)
    return made
