"""Form: how one protocol writes questions and answers down; what is asked and merged is the same."""

from collections.abc import Sequence
from typing import Protocol

from gateway.errors import Fault
from gateway.triton.api import Memory
from gateway.triton.calls import GrpcAnswer, HttpAnswer, Reply
from gateway.triton.merge import IndexEntry, Metadata, Region
from gateway.triton.statistics import ModelStatistics

Answer = HttpAnswer | GrpcAnswer


class Form(Protocol):
    """
    One protocol's reading and writing.

    What is read comes from slices: a ValueError says that it is not what Triton answers.
    """

    def read_metadata(self, body: bytes) -> Metadata: ...
    def read_statistics(self, body: bytes) -> list[ModelStatistics]: ...
    def read_index(self, body: bytes) -> list[IndexEntry]: ...
    def read_regions(self, body: bytes, memory: Memory) -> list[Region]: ...

    def metadata(self, server: Metadata) -> Answer: ...
    def statistics(self, models: Sequence[ModelStatistics]) -> Answer: ...
    def index(self, entries: Sequence[IndexEntry]) -> Answer: ...
    def regions(self, regions: Sequence[Region], memory: Memory) -> Answer: ...

    def model_ready(self, ready: bool) -> Answer:
        """Answer whether a model is ready."""

    def bad_version(self, message: str) -> Answer:
        """Refuse a version that is no number."""

    def relay(self, reply: Reply) -> Answer:
        """Pass on what a slice said, as it said it."""

    def failure(self, status: int, message: str) -> Answer:
        """Answer with an error; `status` is of this protocol."""

    def fault(self, fault: Fault) -> Answer:
        """Answer with an error of the gateway's own."""
