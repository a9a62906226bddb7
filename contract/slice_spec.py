"""A slice as both programs describe it: one Triton server on one MIG device."""

import re
from dataclasses import dataclass
from typing import Final

NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""Slice names appear in URLs, metric labels and terminal tables; all three read this alphabet."""
SLOTS_MAX: Final = 64
"""Memory slices of a GPU; no board has more than 8."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one protocol of a server listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """
        Read `host:port`; an IPv6 host stands in brackets, as in a URL.

        Raises:
            ValueError: The text has another form, or the port is not within 1..65535.
        """
        host, separator, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if bracketed:
            host = host[1:-1]
        if not separator or not host or (":" in host and not bracketed):
            raise ValueError(f"{text!r} is not host:port (an IPv6 host goes in brackets)")
        if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise ValueError(f"{text!r}: the port must be a number from 1 to 65535")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Place:
    """
    Where on a GPU a slice is, for people who look at it.

    Attributes:
        gpu: The GPU's UUID.
        gpu_name: Its product name.
        start, size: The memory slices that are the slice's.
        slots: How many memory slices the GPU has: 8 on A100 and Hopper, 4 on A30.
    """

    gpu: str
    gpu_name: str
    start: int
    size: int
    slots: int

    def __post_init__(self) -> None:
        if not (0 <= self.start < self.start + self.size <= self.slots <= SLOTS_MAX):
            raise ValueError(f"place {self.start}:{self.size} of {self.slots} memory slices")


@dataclass(frozen=True, slots=True)
class SliceSpec:
    """
    What a gateway must know of one slice.

    Attributes:
        name: Unique within one gateway; see NAME_PATTERN.
        http: Triton's HTTP endpoint.
        grpc: Triton's gRPC endpoint, plain text HTTP/2.
        metrics: Triton's Prometheus endpoint, where there is one.
        weight: Share of the work relative to the other slices; the compute slices of a MIG
            device, so that a 2g takes twice what a 1g takes. 0 takes none.
        mig_uuid: `MIG-…` of the device the server is bound to; empty when it is not on one.
        profile: The GPU instance profile, such as `1g.5gb`; empty when it is not on one.
        simulated: The MIG device exists on paper only; shown wherever the slice is shown.
        place: Where on its GPU it is; None where nobody has said.
        max_in_flight: Inference requests it is given at once; 0 for any number, None for what
            holds for all slices. The gateway's own: the inventory does not have it.
    """

    name: str
    http: Endpoint
    grpc: Endpoint
    metrics: Endpoint | None = None
    weight: float = 1.0
    mig_uuid: str = ""
    profile: str = ""
    simulated: bool = False
    place: Place | None = None
    max_in_flight: int | None = None

    def __post_init__(self) -> None:
        if not NAME_PATTERN.fullmatch(self.name):
            raise ValueError(
                f"{self.name!r} is no slice name: letters, digits, '.', '_' and '-', "
                "63 at most, a letter or digit first"
            )
        if not 0 <= self.weight <= 1000:
            raise ValueError(f"slice {self.name}: weight is {self.weight}, allowed is 0 to 1000")
