"""Steady load over both protocols in threads of its own, for tests of what happens meanwhile."""

import threading
import time
from types import TracebackType
from typing import Any, Self

import numpy as np
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client


def tensor(messages: Any, data: np.ndarray, name: str = "INPUT0", kind: str = "UINT8") -> Any:
    """Return `data` as an input of `messages`, tritonclient.http or tritonclient.grpc."""
    made = messages.InferInput(name, list(data.shape), kind)
    made.set_data_from_numpy(data)
    return made


class Load:
    """
    Clients that send identity inferences one after the other until the block ends.

    Attributes:
        answered: Requests answered rightly.
        errors: What went wrong with the others.
    """

    def __init__(self, address: str, clients: int = 2) -> None:
        self.answered = 0
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(module, address), daemon=True)
            for module in (http_client, grpc_client)
            for _ in range(clients)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def wait_for(self, more: int, timeout_s: float = 30.0) -> None:
        """Wait until `more` further requests have been answered."""
        wanted = self.answered + more
        deadline_s = time.monotonic() + timeout_s
        while self.answered < wanted and not self.errors:
            assert time.monotonic() < deadline_s, f"{more} answers did not come in {timeout_s} s"
            time.sleep(0.01)

    def _run(self, module: Any, address: str) -> None:
        data = np.arange(64, dtype=np.uint8)
        # gRPC clients of one process share a connection unless told not to; here each has its own.
        own = {"channel_args": [("grpc.use_local_subchannel_pool", 1)]}
        client = module.InferenceServerClient(address, **(own if module is grpc_client else {}))
        sent = tensor(module, data)
        while not self._stop.is_set():
            try:
                back = client.infer("identity", [sent]).as_numpy("OUTPUT0")
                problem = None if np.array_equal(back, data) else f"wrong answer {back!r}"
            except Exception as error:
                problem = f"{module.__name__}: {type(error).__name__}: {error}"
            with self._lock:
                if problem:
                    self.errors.append(problem)
                else:
                    self.answered += 1
        client.close()
