"""
The protobuf messages of Triton's gRPC calls that the gateway composes, made from a table.

tritonclient carries the same messages, and with them numpy and 20 MiB of memory. They live in a
descriptor pool of their own, so both can be used in one process; a test compares the two field by
field. Fields that a newer Triton adds are passed over when an answer is merged.

Source: `grpc_service.proto` of Triton, package `inference`.
"""

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

FIELDS_MAX: Final = 10_000
"""Of one message, not counting what lies in its fields: an entry of a map takes 20 times its size once
it is read."""

Field = tuple[str, int, str]
"""(name, number, type): a scalar's name or a message's, `*` before it when repeated; `map:V` is a
map from string to V."""

_DURATIONS: Final = ("success", "fail", "queue", "compute_input", "compute_infer",
                     "compute_output", "cache_hit", "cache_miss")  # fmt: skip
_RESPONSE_DURATIONS: Final = ("compute_infer", "compute_output", "success", "fail",
                              "empty_response", "cancel")  # fmt: skip
_BATCH_DURATIONS: Final = ("compute_input", "compute_infer", "compute_output")


def _durations(names: tuple[str, ...], first: int) -> tuple[Field, ...]:
    return tuple((name, first + i, "StatisticDuration") for i, name in enumerate(names))


_NAMED: Final[tuple[Field, ...]] = (("name", 1, "string"),)
_NAME_VERSION: Final[tuple[Field, ...]] = (("name", 1, "string"), ("version", 2, "string"))
_REPOSITORY_MODEL: Final[tuple[Field, ...]] = (
    ("repository_name", 1, "string"),
    ("model_name", 2, "string"),
    ("parameters", 3, "map:ModelRepositoryParameter"),
)

MESSAGES: Final[dict[str, tuple[Field, ...]]] = {
    "ModelReadyRequest": _NAME_VERSION,
    "ModelReadyResponse": (("ready", 1, "bool"),),
    "ServerMetadataResponse": (
        ("name", 1, "string"), ("version", 2, "string"), ("extensions", 3, "*string"),
    ),
    "ModelStatisticsRequest": _NAME_VERSION,
    "StatisticDuration": (("count", 1, "uint64"), ("ns", 2, "uint64")),
    "InferStatistics": _durations(_DURATIONS, 1),
    "InferResponseStatistics": _durations(_RESPONSE_DURATIONS, 1),
    "InferBatchStatistics": (
        ("batch_size", 1, "uint64"), *_durations(_BATCH_DURATIONS, 2),
    ),
    "MemoryUsage": (("type", 1, "string"), ("id", 2, "int64"), ("byte_size", 3, "uint64")),
    "ModelStatistics": (
        ("name", 1, "string"),
        ("version", 2, "string"),
        ("last_inference", 3, "uint64"),
        ("inference_count", 4, "uint64"),
        ("execution_count", 5, "uint64"),
        ("inference_stats", 6, "InferStatistics"),
        ("batch_stats", 7, "*InferBatchStatistics"),
        ("memory_usage", 8, "*MemoryUsage"),
        ("response_stats", 9, "map:InferResponseStatistics"),
    ),
    "ModelStatisticsResponse": (("model_stats", 1, "*ModelStatistics"),),
    "ModelRepositoryParameter": (
        ("bool_param", 1, "oneof:bool"),
        ("int64_param", 2, "oneof:int64"),
        ("string_param", 3, "oneof:string"),
        ("bytes_param", 4, "oneof:bytes"),
    ),
    "RepositoryIndexRequest": (("repository_name", 1, "string"), ("ready", 2, "bool")),
    "ModelIndex": (
        ("name", 1, "string"), ("version", 2, "string"), ("state", 3, "string"),
        ("reason", 4, "string"),
    ),
    "RepositoryIndexResponse": (("models", 1, "*ModelIndex"),),
    "RepositoryModelLoadRequest": _REPOSITORY_MODEL,
    "RepositoryModelUnloadRequest": _REPOSITORY_MODEL,
    "SystemSharedMemoryStatusRequest": _NAMED,
    "SystemRegion": (
        ("name", 1, "string"), ("key", 2, "string"), ("offset", 3, "uint64"),
        ("byte_size", 4, "uint64"),
    ),
    "SystemSharedMemoryStatusResponse": (("regions", 1, "map:SystemRegion"),),
    "SystemSharedMemoryRegisterRequest": (
        ("name", 1, "string"), ("key", 2, "string"), ("offset", 3, "uint64"),
        ("byte_size", 4, "uint64"),
    ),
    "SystemSharedMemoryUnregisterRequest": _NAMED,
    "CudaSharedMemoryStatusRequest": _NAMED,
    "CudaRegion": (("name", 1, "string"), ("device_id", 2, "uint64"), ("byte_size", 3, "uint64")),
    "CudaSharedMemoryStatusResponse": (("regions", 1, "map:CudaRegion"),),
    "CudaSharedMemoryRegisterRequest": (
        ("name", 1, "string"), ("raw_handle", 2, "bytes"), ("device_id", 3, "int64"),
        ("byte_size", 4, "uint64"),
    ),
    "CudaSharedMemoryUnregisterRequest": _NAMED,
    "TraceValue": (("value", 1, "*string"),),
    "TraceSettingRequest": (("settings", 1, "map:TraceValue"), ("model_name", 2, "string")),
    "LogValue": (
        ("bool_param", 1, "oneof:bool"), ("uint32_param", 2, "oneof:uint32"),
        ("string_param", 3, "oneof:string"),
    ),
    "LogSettingsRequest": (("settings", 1, "map:LogValue"),),
}  # fmt: skip
"""Nested messages have names of their own here; on the wire only numbers and types count."""

_PACKAGE: Final = "mig_gateway.inference"
_F: Final = descriptor_pb2.FieldDescriptorProto


def _add_field(message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str) -> None:
    field = message.field.add(name=name, number=number, label=_F.LABEL_OPTIONAL)
    if kind.startswith("map:"):
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _add_field(entry, "key", 1, "string")
        _add_field(entry, "value", 2, kind.removeprefix("map:"))
        field.label, field.type = _F.LABEL_REPEATED, _F.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{message.name}.{entry.name}"
        return
    if kind.startswith("oneof:"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    elif kind.startswith("*"):
        field.label = _F.LABEL_REPEATED
    bare = kind.removeprefix("oneof:").removeprefix("*")
    if bare in MESSAGES:
        field.type, field.type_name = _F.TYPE_MESSAGE, f".{_PACKAGE}.{bare}"
    else:
        field.type = _F.Type.Value(f"TYPE_{bare.upper()}")


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="mig_gateway_inference.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, members in MESSAGES.items():
        message = file.message_type.add(name=name)
        for member in members:
            _add_field(message, *member)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in MESSAGES
    }


_VARINT: Final = 0
_BYTES: Final = 2
_FIXED_BYTES: Final = {1: 8, 5: 4}
_CLASSES: Final = _build()


def new(kind: str, **values: Any) -> Any:
    """Return a new message of a kind named in MESSAGES."""
    return _CLASSES[kind](**values)


def parse(kind: str, data: bytes) -> Any:
    """
    Read a message.

    Raises:
        ValueError: The bytes are no such message, or one of more than FIELDS_MAX fields.
    """
    if len(data) > FIELDS_MAX and _fields_of(data) > FIELDS_MAX:
        raise ValueError(f"a {kind} of more than {FIELDS_MAX} fields")
    try:
        return _CLASSES[kind].FromString(data)
    except DecodeError as error:
        raise ValueError(f"not a {kind}: {error}") from None


def _fields_of(data: bytes) -> int:
    """Count the fields of a message, up to one more than FIELDS_MAX; what is malformed ends it."""
    at, count, size = 0, 0, len(data)
    while at < size and count <= FIELDS_MAX:
        count += 1
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _BYTES:
            length, at = _varint(data, at)
            at += length
        elif kind == _VARINT:
            at = _varint(data, at)[1]
        else:  # fixed sizes; groups count by what is in them
            at += _FIXED_BYTES.get(kind, 0)
    return count


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return (number, offset behind it) of a number that may be cut off."""
    number = shift = 0
    for byte in data[at : at + 10]:
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return number, at
