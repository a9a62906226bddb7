"""Composed calls as Triton writes them in HTTP and JSON. Pure."""

import json
from collections.abc import Sequence
from typing import Any, Final

from gateway.errors import Fault
from gateway.triton.api import Memory, Op, match_http
from gateway.triton.calls import Header, HttpAnswer, HttpCall, Question, Reply
from gateway.triton.merge import IndexEntry, Metadata, Region
from gateway.triton.statistics import ModelStatistics, Path

JSON_PARTS_MAX: Final = 100_000
"""Values of a client's JSON. A model's files are large and few: base64 has no comma in it."""
_JSON: Final = (b"Content-Type", b"application/json")
_TEXT: Final = (b"Content-Type", b"text/plain")
# What concerns this connection only (RFC 9110 section 7.6.1), what frames the body, and what would
# make Triton answer in a form that cannot be merged.
_NOT_PASSED_ON: Final = frozenset(
    {
        b"accept-encoding", b"connection", b"content-length", b"expect", b"host", b"keep-alive",
        b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
        b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip


def read(method: str, target: str, headers: Sequence[Header], body: bytes) -> Question | None:
    """
    Return what a request asks; None when it is no composed call.

    Raises:
        ValueError: Its body is more than can be read without holding up everybody else.
    """
    found = match_http(method, target)
    if found is None or found.endpoint.op is None:
        return None
    call = HttpCall(method, target, passed_on(headers), body)
    said = _object(body)
    if found.endpoint.op in (Op.LOAD, Op.UNLOAD):
        parameters = said.get("parameters")
        said = parameters if isinstance(parameters, dict) else {}
    return Question(
        found.endpoint.op, call, found.model, found.version, found.region, found.endpoint.memory,
        said,
    )  # fmt: skip


def passed_on(headers: Sequence[Header]) -> tuple[Header, ...]:
    """Return the headers that a slice should see too."""
    named = {
        token.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for token in value.split(b",")
    }
    return tuple(
        (name, value)
        for name, value in headers
        if name.lower() not in _NOT_PASSED_ON and name.lower() not in named
    )


class HttpForm:
    """A Form."""

    def read_metadata(self, body: bytes) -> Metadata:
        document = _loads(body, dict)
        extensions = document.get("extensions", [])
        return Metadata(
            str(document["name"]), str(document["version"]), tuple(map(str, extensions))
        )

    def read_statistics(self, body: bytes) -> list[ModelStatistics]:
        return [_statistics(entry) for entry in _list(_loads(body, dict).get("model_stats"))]

    def read_index(self, body: bytes) -> list[IndexEntry]:
        return [
            IndexEntry(*(str(entry.get(key, "")) for key in ("name", "version", "state", "reason")))
            for entry in _list(_loads(body, list))
        ]

    def read_regions(self, body: bytes, memory: Memory) -> list[Region]:
        return [
            Region(
                str(entry["name"]), int(entry["byte_size"]), str(entry.get("key", "")),
                int(entry.get("offset", 0)), int(entry.get("device_id", 0)),
            )
            for entry in _list(_loads(body, list))
        ]  # fmt: skip

    def metadata(self, server: Metadata) -> HttpAnswer:
        return _answer(
            {
                "name": server.name,
                "version": server.version,
                "extensions": list(server.extensions),
            }
        )

    def statistics(self, models: Sequence[ModelStatistics]) -> HttpAnswer:
        return _answer({"model_stats": [_statistics_out(model) for model in models]})

    def index(self, entries: Sequence[IndexEntry]) -> HttpAnswer:
        return _answer(
            [
                {
                    key: value
                    for key, value in (
                        ("name", entry.name), ("version", entry.version), ("state", entry.state),
                        ("reason", entry.reason),
                    )
                    if value
                }
                for entry in entries
            ]
        )  # fmt: skip

    def regions(self, regions: Sequence[Region], memory: Memory) -> HttpAnswer:
        return _answer([region_out(region, memory) for region in regions])

    def model_ready(self, ready: bool) -> HttpAnswer:
        if ready:
            return HttpAnswer(200, [_TEXT], b"")
        return HttpAnswer(400, [_TEXT], b'{"error":"Model version not ready"}')

    def bad_version(self, message: str) -> HttpAnswer:
        return HttpAnswer(400, [_TEXT], _dumps({"error": message}))

    def relay(self, reply: Reply) -> HttpAnswer:
        headers = [(b"Content-Type", reply.content_type)] if reply.content_type else []
        return HttpAnswer(reply.status, headers, reply.body)

    def failure(self, status: int, message: str) -> HttpAnswer:
        return HttpAnswer(status, [_JSON], _dumps({"error": message}))

    def fault(self, fault: Fault) -> HttpAnswer:
        return self.failure(fault.http_status, fault.message)


def region_out(region: Region, memory: Memory) -> dict[str, Any]:
    """Return a region as Triton's JSON describes it."""
    if memory is Memory.CUDA:
        return {
            "name": region.name, "device_id": region.device_id, "byte_size": region.byte_size,
        }  # fmt: skip
    return {
        "name": region.name, "key": region.key, "offset": region.offset,
        "byte_size": region.byte_size,
    }  # fmt: skip


def _statistics(entry: dict[str, Any]) -> ModelStatistics:
    key = (str(entry["name"]), str(entry.get("version", "")))
    found = ModelStatistics(key, int(entry.get("last_inference", 0)))
    for name, value in entry.items():
        if name == "batch_stats":
            for batch in _list(value):
                size = str(int(batch["batch_size"]))
                for part, duration in batch.items():
                    if part != "batch_size":
                        _flatten(found.counters, (name, size, part), duration)
        elif name == "memory_usage":
            for usage in _list(value):
                found.memory[str(usage["type"]), int(usage["id"])] = int(usage["byte_size"])
        elif name not in ("name", "version", "last_inference"):
            _flatten(found.counters, (name,), value)
    return found


def _flatten(counters: dict[Path, int], path: Path, value: Any) -> None:
    if isinstance(value, dict):
        for name, part in value.items():
            _flatten(counters, (*path, name), part)
    elif isinstance(value, int) and not isinstance(value, bool):
        counters[path] = value


def _statistics_out(model: ModelStatistics) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": model.key[0],
        "version": model.key[1],
        "last_inference": model.last_inference,
        "inference_count": 0,
        "execution_count": 0,
        "inference_stats": {},
        "response_stats": {},
        "batch_stats": {},
    }
    for path, value in model.counters.items():
        place = document
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = value
    batches = document["batch_stats"]
    document["batch_stats"] = [
        {"batch_size": int(size), **batches[size]} for size in sorted(batches, key=int)
    ]
    document["memory_usage"] = [
        {"type": kind, "id": number, "byte_size": size}
        for (kind, number), size in sorted(model.memory.items())
    ]
    return document


def _answer(document: object) -> HttpAnswer:
    return HttpAnswer(200, [_JSON], _dumps(document))


def _dumps(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _object(body: bytes) -> dict[str, Any]:
    """
    Return what a client's body says; nothing when it is no JSON object, which slices refuse.

    Raises:
        ValueError: It has too many parts: `{},{},{}` takes 25 times its size once it is read.
    """
    if len(body) > JSON_PARTS_MAX and sum(map(body.count, (b",", b"[", b"{"))) > JSON_PARTS_MAX:
        raise ValueError(f"JSON of more than {JSON_PARTS_MAX} values")
    try:
        document = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _loads(body: bytes, kind: type) -> Any:
    try:
        document = json.loads(body)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(document, kind):
        raise ValueError(f"{kind.__name__} expected, {type(document).__name__} found")
    return document


def _list(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ValueError("a list of objects expected")
    return value
