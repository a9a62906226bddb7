"""Counters of the data plane, as plain integers that `/metrics` reads."""


class Counters:
    """
    What is not counted per slice.

    `faults` maps a fault's code to how often it was answered; `limits` maps a limit's name to how
    often it was hit without an answer of our own (a connection closed, reading paused). Both have
    as many keys as the program has faults and limits: nothing a client sends becomes a key.
    """

    __slots__ = (
        "accepted",
        "closed",
        "faults",
        "grpc_calls",
        "head_hits",
        "head_misses",
        "header_hits",
        "header_misses",
        "hedges",
        "hedges_won",
        "http_requests",
        "limits",
        "quarantines",
        "replays",
    )

    def __init__(self) -> None:
        self.accepted = 0  # client connections
        self.closed = 0
        self.http_requests = 0
        self.grpc_calls = 0
        self.replays = 0  # requests sent to another slice
        self.hedges = 0  # requests sent to a second slice as well, since they were late
        self.hedges_won = 0  # whose second slice answered first
        self.quarantines = 0  # requests that broke two slices, refused from then on
        self.head_hits = 0  # HTTP/1.1 heads found in the cache
        self.head_misses = 0
        self.header_hits = 0  # HTTP/2 header blocks found in the cache
        self.header_misses = 0
        self.faults: dict[str, int] = {}
        self.limits: dict[str, int] = {}

    def fault(self, code: str) -> None:
        self.faults[code] = self.faults.get(code, 0) + 1

    def limit(self, name: str) -> None:
        self.limits[name] = self.limits.get(name, 0) + 1
