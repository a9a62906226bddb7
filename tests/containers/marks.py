"""The marks of every container test."""

import pytest

CONTAINERS = [
    pytest.mark.docker,
    pytest.mark.timeout(600),
    # The SDK leaves the sockets of streams, and of calls that failed, to be collected.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
