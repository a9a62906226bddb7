"""Our messages are those of tritonclient, field by field, as far as the wire can tell."""

import pytest
from tritonclient.grpc import service_pb2

from gateway.triton import messages

NAMED_ELSEWHERE = {
    "ModelIndex": service_pb2.RepositoryIndexResponse.ModelIndex,
    "SystemRegion": service_pb2.SystemSharedMemoryStatusResponse.RegionStatus,
    "CudaRegion": service_pb2.CudaSharedMemoryStatusResponse.RegionStatus,
    "TraceValue": service_pb2.TraceSettingRequest.SettingValue,
    "LogValue": service_pb2.LogSettingsRequest.SettingValue,
}


def shape(message: object, depth: int = 4) -> object:
    """Return (name, number, type, repeated, shape of the message it holds) of each field."""
    return sorted(
        (
            field.name, field.number, field.type, field.is_repeated,
            field.containing_oneof is not None,
            shape(field.message_type, depth - 1) if field.message_type and depth else None,
        )
        for field in message.fields  # type: ignore[attr-defined]
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(messages.MESSAGES))
def test_a_message_is_tritons(name: str) -> None:
    theirs = NAMED_ELSEWHERE.get(name) or getattr(service_pb2, name)
    assert shape(messages.new(name).DESCRIPTOR) == shape(theirs.DESCRIPTOR)


def test_what_is_no_message_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="not a ModelStatisticsResponse"):
        messages.parse("ModelStatisticsResponse", b"\xff")


def test_a_message_of_very_many_fields_is_not_read() -> None:
    """A million entries of a map take 100 MB; a few that are large take what they are."""
    entry = b"\x1a\x07\x0a\x03%03d\x12\x00"
    many = b"".join(entry % (i % 1000) for i in range(messages.FIELDS_MAX + 1))
    with pytest.raises(ValueError, match="more than 10000 fields"):
        messages.parse("RepositoryModelLoadRequest", many)
    few = many[: len(entry % 0) * messages.FIELDS_MAX]
    assert len(messages.parse("RepositoryModelLoadRequest", few).parameters) == 1000
    large = messages.new("RepositoryModelLoadRequest", model_name="m" * 1_000_000)
    assert messages.parse("RepositoryModelLoadRequest", large.SerializeToString()) == large


@pytest.mark.parametrize(
    "data", [b"\xff" * 20_000, b"\x0a\xff\xff\xff\x7f" * 4000, b"\x0b" * 20_000, b"\x07" * 20_000]
)
def test_what_is_malformed_and_long_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="RepositoryModelLoadRequest"):
        messages.parse("RepositoryModelLoadRequest", data)
