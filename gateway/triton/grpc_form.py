"""Composed calls as Triton writes them in gRPC and protobuf. Pure."""

import base64
from collections.abc import Sequence
from typing import Any, Final

from gateway.errors import GRPC_INVALID_ARGUMENT, Fault
from gateway.triton import messages
from gateway.triton.api import Memory, Op, match_grpc
from gateway.triton.calls import GrpcAnswer, GrpcCall, Header, Question, Reply
from gateway.triton.merge import IndexEntry, Metadata, Region
from gateway.triton.statistics import ModelStatistics, Path

_NOT_PASSED_ON: Final = frozenset(
    {b"te", b"content-type", b"user-agent", b"host", b"connection", b"content-length",
     b"accept-encoding"}
)  # fmt: skip


def read(path: bytes, metadata: Sequence[Header], message: bytes) -> Question | None:
    """
    Return what a call asks; None when it is no composed call.

    Raises:
        ValueError: The message is not what the call takes.
    """
    rpc = match_grpc(path)
    if rpc is None or rpc.op is None:
        return None
    call = GrpcCall(path, passed_on(metadata), message)
    model = version = region = ""
    said: dict[str, object] = {}
    asked: Any
    if rpc.op in (Op.MODEL_READY, Op.STATISTICS):
        asked = messages.parse("ModelReadyRequest", message)  # the other one has the same fields
        model, version = asked.name, asked.version
    elif rpc.op in (Op.LOAD, Op.UNLOAD):
        asked = messages.parse("RepositoryModelLoadRequest", message)  # and so here
        model, said = asked.model_name, _parameters(asked)
    elif rpc.op is Op.TRACE:
        asked = messages.parse("TraceSettingRequest", message)
        model, said = asked.model_name, _trace_settings(asked)
    elif rpc.op is Op.LOGGING:
        said = _log_settings(messages.parse("LogSettingsRequest", message))
    elif rpc.op is Op.REGION_REGISTER and rpc.memory is Memory.SYSTEM:
        asked = messages.parse("SystemSharedMemoryRegisterRequest", message)
        region = asked.name
        said = {"key": asked.key, "offset": asked.offset, "byte_size": asked.byte_size}
    elif rpc.memory is not Memory.NONE:
        region = messages.parse("SystemSharedMemoryStatusRequest", message).name
    return Question(rpc.op, call, model, version, region, rpc.memory, said)


def passed_on(metadata: Sequence[Header]) -> tuple[Header, ...]:
    """
    Return the metadata that a slice should see too, binary values decoded.

    What gRPC itself makes of a call is made anew for each slice's call.
    """
    return tuple(
        (name, _unpadded(value) if name.endswith(b"-bin") else value)
        for name, value in metadata
        if not name.startswith((b":", b"grpc-")) and name not in _NOT_PASSED_ON
    )


class GrpcForm:
    """A Form."""

    def read_metadata(self, body: bytes) -> Metadata:
        server = messages.parse("ServerMetadataResponse", body)
        return Metadata(server.name, server.version, tuple(server.extensions))

    def read_statistics(self, body: bytes) -> list[ModelStatistics]:
        answer = messages.parse("ModelStatisticsResponse", body)
        return [_statistics(model) for model in answer.model_stats]

    def read_index(self, body: bytes) -> list[IndexEntry]:
        answer = messages.parse("RepositoryIndexResponse", body)
        return [
            IndexEntry(entry.name, entry.version, entry.state, entry.reason)
            for entry in answer.models
        ]

    def read_regions(self, body: bytes, memory: Memory) -> list[Region]:
        if memory is Memory.CUDA:
            cuda = messages.parse("CudaSharedMemoryStatusResponse", body)
            return [
                Region(region.name, region.byte_size, device_id=region.device_id)
                for region in cuda.regions.values()
            ]
        system = messages.parse("SystemSharedMemoryStatusResponse", body)
        return [
            Region(region.name, region.byte_size, region.key, region.offset)
            for region in system.regions.values()
        ]

    def metadata(self, server: Metadata) -> GrpcAnswer:
        return _answer(
            messages.new(
                "ServerMetadataResponse",
                name=server.name,
                version=server.version,
                extensions=server.extensions,
            )
        )

    def statistics(self, models: Sequence[ModelStatistics]) -> GrpcAnswer:
        answer = messages.new("ModelStatisticsResponse")
        for model in models:
            _statistics_out(model, answer.model_stats.add())
        return _answer(answer)

    def index(self, entries: Sequence[IndexEntry]) -> GrpcAnswer:
        answer = messages.new("RepositoryIndexResponse")
        for entry in entries:
            answer.models.add(
                name=entry.name, version=entry.version, state=entry.state, reason=entry.reason
            )
        return _answer(answer)

    def regions(self, regions: Sequence[Region], memory: Memory) -> GrpcAnswer:
        cuda = memory is Memory.CUDA
        answer = messages.new(f"{'Cuda' if cuda else 'System'}SharedMemoryStatusResponse")
        for region in regions:
            place = answer.regions[region.name]
            place.name, place.byte_size = region.name, region.byte_size
            if cuda:
                place.device_id = region.device_id
            else:
                place.key, place.offset = region.key, region.offset
        return _answer(answer)

    def model_ready(self, ready: bool) -> GrpcAnswer:
        return _answer(messages.new("ModelReadyResponse", ready=ready))

    def bad_version(self, message: str) -> GrpcAnswer:
        return GrpcAnswer(GRPC_INVALID_ARGUMENT, message, b"")

    def relay(self, reply: Reply) -> GrpcAnswer:
        return GrpcAnswer(reply.status, reply.said, reply.body)

    def failure(self, status: int, message: str) -> GrpcAnswer:
        return GrpcAnswer(status, message, b"")

    def fault(self, fault: Fault) -> GrpcAnswer:
        return GrpcAnswer(fault.grpc_status, fault.message, b"")


def _statistics(model: Any) -> ModelStatistics:
    found = ModelStatistics((model.name, model.version), model.last_inference)
    counters = found.counters
    counters["inference_count",] = model.inference_count
    counters["execution_count",] = model.execution_count
    _durations(counters, ("inference_stats",), model.inference_stats)
    for index, response in model.response_stats.items():
        _durations(counters, ("response_stats", index), response)
    for batch in model.batch_stats:
        _durations(counters, ("batch_stats", str(batch.batch_size)), batch)
    for usage in model.memory_usage:
        found.memory[usage.type, usage.id] = usage.byte_size
    return found


def _durations(counters: dict[Path, int], path: Path, message: Any) -> None:
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None:
            duration = getattr(message, field.name)
            counters[(*path, field.name, "count")] = duration.count
            counters[(*path, field.name, "ns")] = duration.ns


def _statistics_out(model: ModelStatistics, place: Any) -> None:
    place.name, place.version = model.key
    place.last_inference = model.last_inference
    place.inference_stats.SetInParent()
    batches: dict[int, dict[Path, int]] = {}
    for path, value in model.counters.items():
        if path[0] == "batch_stats":
            batches.setdefault(int(path[1]), {})[path[2:]] = value
        elif path[0] == "response_stats":
            _set(place.response_stats[path[1]], path[2:], value)
        else:
            _set(place, path, value)
    for size in sorted(batches):
        batch = place.batch_stats.add(batch_size=size)
        for path, value in batches[size].items():
            _set(batch, path, value)
    for (kind, number), size in sorted(model.memory.items()):
        place.memory_usage.add(type=kind, id=number, byte_size=size)


def _set(message: Any, path: Path, value: int) -> None:
    """Set the counter at `path`; one that a newer Triton's JSON has and this message has not is
    passed over."""
    for name in path[:-1]:
        if name not in message.DESCRIPTOR.fields_by_name:
            return
        message = getattr(message, name)
        message.SetInParent()
    if path[-1] in message.DESCRIPTOR.fields_by_name:
        setattr(message, path[-1], value)


def _parameters(asked: Any) -> dict[str, object]:
    """Return a load's parameters as the JSON of the HTTP call: files as base64."""
    found: dict[str, object] = {}
    for name, parameter in asked.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind == "bytes_param":
            found[name] = base64.b64encode(parameter.bytes_param).decode()
        elif kind is not None:
            found[name] = getattr(parameter, kind)
    return found


def _trace_settings(asked: Any) -> dict[str, object]:
    """Return trace settings as JSON: no value takes a setting back."""
    found: dict[str, object] = {}
    for name, setting in asked.settings.items():
        values = list(setting.value)
        if name == "trace_level":
            found[name] = values or None
        else:
            found[name] = values[0] if values else None
    return found


def _log_settings(asked: Any) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, setting in asked.settings.items():
        kind = setting.WhichOneof("parameter_choice")
        if kind is not None:
            found[name] = getattr(setting, kind)
    return found


def _answer(message: Any) -> GrpcAnswer:
    return GrpcAnswer(0, "", message.SerializeToString())


def _unpadded(value: bytes) -> bytes:
    """Decode a binary value; gRPC leaves the padding out."""
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4))
    except ValueError:
        return value
