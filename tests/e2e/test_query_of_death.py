"""A request that kills every Triton that gets it: two go, and no third however often it comes."""

from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from tests.e2e.stack import SLICES, Stack, wait_until
from tests.support.tensors import tensor

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@pytest.mark.parametrize("module", [http_client, grpc_client], ids=["http", "grpc"])
def test_a_request_that_kills_tritons_kills_two(stack: Stack, module: Any) -> None:
    before = stack.triton_pids()
    sent = tensor(module, np.arange(64, dtype=np.uint8))

    def infer(**parameters: int) -> str:
        """Return the error that a request got, or nothing."""
        try:
            client.infer("slow", [sent], parameters=parameters)
        except InferenceServerException as error:
            return f"{error.status()} {error.message()}"
        return ""

    with module.InferenceServerClient(stack.address) as client:
        for _ in SLICES:  # over connections that have been used, as most are
            assert infer(delay_ms=1) == ""
        assert "which is now refused for 60 s" in infer(kills_server=1)
        for _ in range(5):
            refused = infer(kills_server=1)
            assert "do not send it again as it is" in refused
            assert ("500" in refused) or ("INTERNAL" in refused)
        assert infer(delay_ms=1) == "", "the others of its kind are served"
    wait_until(
        lambda: len(set(stack.triton_pids().values()) - set(before.values())) == 2,
        "two Tritons have been started anew",
    )
    stack.wait_ready()
    after = stack.triton_pids()
    assert sum(after[name] != before[name] for name in SLICES) == 2
    assert stack.log("gateway").count("request.quarantined") >= 1
