"""
Every endpoint and RPC of Triton, and what it means in front of N slices. Pure.

This is the table; the router (gateway/relay/router.py) agrees with it, and a test compares both.
A path is matched whole and never decoded, as Triton does.

Source: Triton 2.51 `http_server.cc`; `grpc_service.proto` of the same release.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Meaning(Enum):
    """What a call means in front of N slices."""

    BALANCED = "balanced"  # one slice that has the model; of one sequence, always the same
    ANY = "any"  # one slice that can answer
    AGGREGATED = "aggregated"  # all are asked, the answers are merged
    BROADCAST = "broadcast"  # carried out on all, and kept for those that come later
    GATEWAY = "gateway"  # answered from what the gateway knows
    PER_MESSAGE = "per_message"  # ANY when the message changes nothing, else BROADCAST


class Op(Enum):
    """What a composed call does."""

    MODEL_READY = "model_ready"
    METADATA = "metadata"
    STATISTICS = "statistics"
    INDEX = "index"
    LOAD = "load"
    UNLOAD = "unload"
    REGION_STATUS = "region_status"
    REGION_REGISTER = "region_register"
    REGION_UNREGISTER = "region_unregister"
    TRACE = "trace"
    LOGGING = "logging"


class Memory(Enum):
    """Whose memory a region is."""

    NONE = ""
    SYSTEM = "system"
    CUDA = "cuda"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    One HTTP endpoint.

    Attributes:
        method: `GET` or `POST`.
        path: `{m}` stands for a model, `{v}` for digits, `{r}` for a region or repository; what
            is in brackets may be left out.
        meaning: What it means in front of N slices.
        op: What the composer does; None when it is not the composer that answers.
    """

    method: str
    path: str
    meaning: Meaning
    op: Op | None = None
    memory: Memory = Memory.NONE


@dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC, by its full path; attributes as Endpoint's."""

    path: bytes
    meaning: Meaning
    op: Op | None = None
    memory: Memory = Memory.NONE


_BAL, _ANY, _AGG = Meaning.BALANCED, Meaning.ANY, Meaning.AGGREGATED
_ALL, _OWN, _MSG = Meaning.BROADCAST, Meaning.GATEWAY, Meaning.PER_MESSAGE
_VERSION: Final = "[/versions/{v}]"
_SYSTEM, _CUDA = Memory.SYSTEM, Memory.CUDA

ENDPOINTS: Final = (
    Endpoint("GET", "/v2/health/live", _OWN),
    Endpoint("GET", "/v2/health/ready", _OWN),
    Endpoint("GET", "/v2", _AGG, Op.METADATA),
    Endpoint("GET", "/v2/models/stats", _AGG, Op.STATISTICS),
    Endpoint("GET", f"/v2/models/{{m}}{_VERSION}", _ANY),
    Endpoint("GET", f"/v2/models/{{m}}{_VERSION}/ready", _OWN, Op.MODEL_READY),
    Endpoint("GET", f"/v2/models/{{m}}{_VERSION}/config", _ANY),
    Endpoint("GET", f"/v2/models/{{m}}{_VERSION}/stats", _AGG, Op.STATISTICS),
    Endpoint("POST", f"/v2/models/{{m}}{_VERSION}/infer", _BAL),
    Endpoint("POST", f"/v2/models/{{m}}{_VERSION}/generate", _BAL),
    Endpoint("POST", f"/v2/models/{{m}}{_VERSION}/generate_stream", _BAL),
    Endpoint("GET", "/v2/models/{m}/trace/setting", _ANY),
    Endpoint("POST", "/v2/models/{m}/trace/setting", _ALL, Op.TRACE),
    Endpoint("GET", "/v2/trace/setting", _ANY),
    Endpoint("POST", "/v2/trace/setting", _ALL, Op.TRACE),
    Endpoint("GET", "/v2/logging", _ANY),
    Endpoint("POST", "/v2/logging", _ALL, Op.LOGGING),
    Endpoint("POST", "/v2/repository[/{r}]/index", _AGG, Op.INDEX),
    Endpoint("POST", "/v2/repository[/{r}]/models/{m}/load", _ALL, Op.LOAD),
    Endpoint("POST", "/v2/repository[/{r}]/models/{m}/unload", _ALL, Op.UNLOAD),
    Endpoint(
        "GET", "/v2/systemsharedmemory[/region/{r}]/status", _AGG, Op.REGION_STATUS, _SYSTEM
    ),
    Endpoint(
        "POST", "/v2/systemsharedmemory/region/{r}/register", _ALL, Op.REGION_REGISTER, _SYSTEM
    ),
    Endpoint(
        "POST", "/v2/systemsharedmemory[/region/{r}]/unregister", _ALL, Op.REGION_UNREGISTER,
        _SYSTEM,
    ),
    Endpoint("GET", "/v2/cudasharedmemory[/region/{r}]/status", _AGG, Op.REGION_STATUS, _CUDA),
    Endpoint("POST", "/v2/cudasharedmemory/region/{r}/register", _ALL, Op.REGION_REGISTER, _CUDA),
    Endpoint(
        "POST", "/v2/cudasharedmemory[/region/{r}]/unregister", _ALL, Op.REGION_UNREGISTER, _CUDA
    ),
)  # fmt: skip

SERVICE: Final = b"/inference.GRPCInferenceService/"

RPCS: Final = (
    Rpc(SERVICE + b"ServerLive", _OWN),
    Rpc(SERVICE + b"ServerReady", _OWN),
    Rpc(b"/grpc.health.v1.Health/Check", _OWN),
    Rpc(SERVICE + b"ModelReady", _OWN, Op.MODEL_READY),
    Rpc(SERVICE + b"ServerMetadata", _AGG, Op.METADATA),
    Rpc(SERVICE + b"ModelMetadata", _ANY),
    Rpc(SERVICE + b"ModelConfig", _ANY),
    Rpc(SERVICE + b"ModelStatistics", _AGG, Op.STATISTICS),
    Rpc(SERVICE + b"RepositoryIndex", _AGG, Op.INDEX),
    Rpc(SERVICE + b"RepositoryModelLoad", _ALL, Op.LOAD),
    Rpc(SERVICE + b"RepositoryModelUnload", _ALL, Op.UNLOAD),
    Rpc(SERVICE + b"SystemSharedMemoryStatus", _AGG, Op.REGION_STATUS, _SYSTEM),
    Rpc(SERVICE + b"SystemSharedMemoryRegister", _ALL, Op.REGION_REGISTER, _SYSTEM),
    Rpc(SERVICE + b"SystemSharedMemoryUnregister", _ALL, Op.REGION_UNREGISTER, _SYSTEM),
    Rpc(SERVICE + b"CudaSharedMemoryStatus", _AGG, Op.REGION_STATUS, _CUDA),
    Rpc(SERVICE + b"CudaSharedMemoryRegister", _ALL, Op.REGION_REGISTER, _CUDA),
    Rpc(SERVICE + b"CudaSharedMemoryUnregister", _ALL, Op.REGION_UNREGISTER, _CUDA),
    Rpc(SERVICE + b"TraceSetting", _MSG, Op.TRACE),
    Rpc(SERVICE + b"LogSettings", _MSG, Op.LOGGING),
    Rpc(SERVICE + b"ModelInfer", _BAL),
    Rpc(SERVICE + b"ModelStreamInfer", _BAL),
)

_RPC_BY_PATH: Final = {rpc.path: rpc for rpc in RPCS}


@dataclass(frozen=True, slots=True)
class Match:
    """An endpoint, and what its path names; parts that are not there are empty."""

    endpoint: Endpoint
    model: str = ""
    version: str = ""
    region: str = ""


def _pattern(path: str) -> re.Pattern[str]:
    pattern = path.replace("[", "(?:").replace("]", ")?")
    for letter, allowed in (("m", "[^/]+"), ("v", "[0-9]+"), ("r", "[^/]+")):
        pattern = pattern.replace(f"{{{letter}}}", f"(?P<{letter}>{allowed})")
    return re.compile(pattern)


_PATTERNS: Final = tuple((_pattern(endpoint.path), endpoint) for endpoint in ENDPOINTS)


def match_http(method: str, target: str) -> Match | None:
    """Return what an HTTP request asks; None when Triton has no such endpoint."""
    path = target.partition("?")[0]
    for pattern, endpoint in _PATTERNS:
        if endpoint.method == method and (found := pattern.fullmatch(path)):
            names = found.groupdict()
            return Match(endpoint, names.get("m") or "", names.get("v") or "", names.get("r") or "")
    return None


def match_grpc(path: bytes) -> Rpc | None:
    """Return the RPC; None when Triton has no such one."""
    return _RPC_BY_PATH.get(path)
