"""`GET /openapi.json`: the admin API described. A test holds it against the routes and the views."""

from typing import Any, Final

from gateway.balance.policies import POLICIES
from gateway.control.processes import AWAY, LEAVING, SERVING, STARTING
from gateway.fleet.health import Order, State
from gateway.fleet.registry import EVENTS
from gateway.flowers.loop import OUTSTANDING_MAX

_TEXT: Final[dict[str, Any]] = {"type": "string"}
_COUNT: Final[dict[str, Any]] = {"type": "integer", "minimum": 0}
_NUMBER: Final[dict[str, Any]] = {"type": "number", "minimum": 0}
_FLAG: Final[dict[str, Any]] = {"type": "boolean"}
_LIMIT: Final[dict[str, Any]] = {
    "type": ["integer", "null"],
    "description": "Inference requests at once; those beyond wait in the gateway. Null: no limit.",
}
_COUNTS: Final[dict[str, Any]] = {"type": "object", "additionalProperties": _COUNT}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _json(description: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def _error(description: str) -> dict[str, Any]:
    return _json(description, "Error")


_QUANTILES: Final = _object({"p50": _NUMBER, "p99": _NUMBER})

SCHEMAS: Final[dict[str, Any]] = {
    "Slice": _object(
        {
            "name": _TEXT,
            "state": {"type": "string", "enum": [state.value for state in State]},
            "reason": {"type": "string", "description": "Why it is in this state."},
            "enabled": _FLAG,
            "order": {"type": "string", "enum": [order.value for order in Order]},
            "healthy": {"type": "boolean", "description": "What the checks have found."},
            "in_flight": _COUNT,
            "sequences": _COUNT,
            "max_in_flight": _LIMIT,
            "weight": _NUMBER,
            "requests": {**_COUNT, "description": "Given to it, failed attempts included."},
            "http_requests": _COUNT,
            "grpc_requests": _COUNT,
            "failures": _COUNT,
            "slow_start": {**_NUMBER, "description": "1 but while it comes back."},
            "ejections": {
                "type": "array",
                "items": _object(
                    {
                        "model": {**_TEXT, "description": "Empty for the whole slice."},
                        "phase": {"type": "string", "enum": ["ejected", "due", "trying"]},
                        "reason": _TEXT,
                        "remaining_s": _NUMBER,
                        "times": _COUNT,
                    }
                ),
            },
            "models": {"type": "array", "items": _object({"name": _TEXT, "version": _TEXT})},
            "mig_uuid": _TEXT,
            "profile": _TEXT,
            "simulated": {"type": "boolean", "description": "Its MIG device exists on paper only."},
            "place": {
                "description": "Where on a GPU it is, in memory slices; null where nobody knows.",
                "oneOf": [
                    {"type": "null"},
                    _object(
                        {
                            "gpu": _TEXT,
                            "gpu_name": _TEXT,
                            "start": _COUNT,
                            "size": _COUNT,
                            "slots": _COUNT,
                        }
                    ),
                ],
            },
            "http": _TEXT,
            "grpc": _TEXT,
            "metrics": {"type": ["string", "null"]},
            "last_check": {
                "oneOf": [
                    {"type": "null"},
                    _object(
                        {"passed": _FLAG, "reason": _TEXT, "ago_s": _NUMBER, "took_ms": _NUMBER}
                    ),
                ]
            },
            "latency_ms": _object({"http": _QUANTILES, "grpc": _QUANTILES, "all": _QUANTILES}),
        }
    ),
    "Slices": _object(
        {"slices": {"type": "array", "items": {"$ref": "#/components/schemas/Slice"}}}
    ),
    "Queues": _object(
        {
            "enabled": _FLAG,
            "wait_ms": {**_QUANTILES, "description": "Of requests that waited and were served."},
            "queues": {
                "type": "array",
                "items": _object(
                    {
                        "model": {
                            **_TEXT,
                            "description": "Empty for models that no slice has reported.",
                        },
                        "waiting": _COUNT,
                        "bytes": _COUNT,
                        "oldest_s": _NUMBER,
                        "ended": {
                            **_COUNTS,
                            "description": "Requests that have waited, by how that ended: served, "
                            "left, timeout, displaced, no_slice.",
                        },
                        "refused": {
                            **_COUNTS,
                            "description": "By why: length, bytes, late.",
                        },
                        "slices": {
                            "type": "array",
                            "items": _object(
                                {"name": _TEXT, "in_flight": _COUNT, "max_in_flight": _LIMIT}
                            ),
                        },
                    }
                ),
            },
        }
    ),
    "Balancing": _object(
        {
            "policy": {"type": "string", "enum": list(POLICIES)},
            "known_policies": {"type": "array", "items": _TEXT},
        }
    ),
    "BalancingChange": _object({"policy": {"type": "string", "enum": list(POLICIES)}}),
    "Readiness": _object({"ready": _FLAG, "reason": _TEXT, "routable": _COUNT, "slices": _COUNT}),
    "Event": _object(
        {
            "name": {**_TEXT, "description": "The slice; empty for panic."},
            "event": {"type": "string", "enum": list(EVENTS)},
            "from": _TEXT,
            "to": _TEXT,
            "state": _TEXT,
            "model": {**_TEXT, "description": "Empty for the whole slice."},
            "reason": _TEXT,
            "time": {"type": "string", "format": "date-time"},
        }
    ),
    "Workers": _object(
        {
            "pid": {**_COUNT, "description": "The process that answers here."},
            "workers": {
                "type": "array",
                "items": _object(
                    {
                        "index": _COUNT,
                        "pid": {**_COUNT, "description": "0 while there is none."},
                        "state": {"type": "string", "enum": [STARTING, SERVING, LEAVING, AWAY]},
                        "connections": _COUNT,
                        "in_flight": _COUNT,
                        "restarts": _COUNT,
                    }
                ),
            },
        }
    ),
    "Outstanding": _object({"outstanding": {**_COUNT, "maximum": OUTSTANDING_MAX}}),
    "Picture": _object({"picture": _COUNT}),
    "Upgrade": _object({"pid": _COUNT}),
    "Liveness": _object({"live": _FLAG}),
    "Reload": _object(
        {
            "changed": {"type": "array", "items": {"$ref": "#/components/schemas/Change"}},
            "needs_restart": {"type": "array", "items": {"$ref": "#/components/schemas/Change"}},
        }
    ),
    "Change": _object(
        {
            "key": {"type": "string", "description": "As in the file: limits.streams, slices.s0."},
            "before": {"description": "Null for not given."},
            "after": {"description": "Null for not given."},
        }
    ),
    "Mistakes": _object({"error": _TEXT, "errors": {"type": "array", "items": _TEXT}}),
    "Error": _object({"error": _TEXT}),
}

_NAME: Final = {"name": "name", "in": "path", "required": True, "schema": _TEXT}
_WAIT: Final = {
    "name": "wait",
    "in": "query",
    "description": "Answer when nothing is in flight, or after this long (30s, 500ms; 1h at most).",
    "schema": _TEXT,
}
_FORCE: Final = {
    "name": "force",
    "in": "query",
    "description": "Also when this is the last slice that can serve.",
    "schema": _FLAG,
}


_LAST_EVENT_ID: Final = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "Go on after this event; 0 for all that is kept; from now on when not given.",
    "schema": _TEXT,
}


def _order_call(summary: str, *, takes_out: bool) -> dict[str, Any]:
    answers = {
        "200": _json("Done; nothing in flight where that was waited for.", "Slice"),
        "400": _error("A parameter cannot be read."),
        "403": _error("The call comes from another site's page."),
        "404": _error("There is no such slice."),
        "500": _error("The choice could not be saved, and nothing was changed."),
    }
    if takes_out:
        answers["202"] = _json("Done, and the time is up with requests in flight.", "Slice")
        answers["409"] = _error("It is the last slice that can serve.")
    return {
        "post": {
            "summary": summary,
            "parameters": [_NAME, _WAIT, _FORCE],
            "responses": dict(sorted(answers.items())),
        }
    }


def _get(summary: str, schema: str) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": {"200": _json("As asked.", schema)}}}


_RELOAD: Final[dict[str, Any]] = {
    "summary": "Read the configuration file again",
    "responses": {
        "200": _json("Done: what is in force now, and what waits for a restart.", "Reload"),
        "403": _error("The token may only read, or the call comes from another site's page."),
        "409": _error("The gateway was not started from a file."),
        "422": _json("The file, or one that it names, is wrong; nothing was changed.", "Mistakes"),
    },
}

_UNKNOWN_CALLER: Final = _error("A token is asked for, and none that is known was shown.")
_OPEN_TO_ALL: Final = ("/livez", "/readyz")


def _secured(paths: dict[str, Any]) -> dict[str, Any]:
    """Add what every call has in common: the answer to callers without a token."""
    for path, calls in paths.items():
        if path not in _OPEN_TO_ALL:
            for call in calls.values():
                call["responses"] = {**call["responses"], "401": _UNKNOWN_CALLER}
    return paths


def _slice_paths() -> dict[str, Any]:
    one = _get("One slice", "Slice")
    one["get"]["parameters"] = [_NAME]
    one["get"]["responses"]["404"] = _error("There is no such slice.")
    return {
        "/v1/slices": _get("All slices", "Slices"),
        "/v1/slices/{name}": one,
        "/v1/slices/{name}/enable": _order_call("Take work again", takes_out=False),
        "/v1/slices/{name}/drain": _order_call(
            "No new work; what is in flight finishes; checks go on", takes_out=True
        ),
        "/v1/slices/{name}/disable": _order_call(
            "The same, then out of service: no connections, no checks", takes_out=True
        ),
    }


def _gateway_paths() -> dict[str, Any]:
    ready = _get("Whether the gateway can serve", "Readiness")
    ready["get"]["responses"]["503"] = _json("It cannot, and why.", "Readiness")
    balancing = _get("The balancing policy in use", "Balancing")
    balancing["put"] = {
        "summary": "Use another policy from the next request on",
        "requestBody": _json("The policy.", "BalancingChange") | {"required": True},
        "responses": {
            "200": _json("In use.", "Balancing"),
            "400": _error("There is no such policy."),
            "403": _error("The call comes from another site's page."),
            "413": _error("The body is larger than allowed."),
            "500": _error("The choice could not be saved, and nothing was changed."),
        },
    }
    metrics = {"description": "Text format 0.0.4.", "content": {"text/plain": {"schema": _TEXT}}}
    anything = {"application/json": {"schema": {"type": "object"}}}
    return {
        "/v1/balancing": balancing,
        "/v1/queues": _get("Who waits, and how many requests each slice may have", "Queues"),
        "/v1/reload": {"post": _RELOAD},
        "/v1/workers": _get("The processes that serve clients", "Workers"),
        "/v1/upgrade": {
            "post": {
                "summary": "Start a new gateway in place of this one, on the same sockets",
                "responses": {
                    "200": _json("It serves.", "Upgrade"),
                    "403": _error("The call comes from another site's page."),
                    "409": _error("It could not be started, and this one goes on."),
                },
            }
        },
        "/v1/events": {
            "get": {
                "summary": "Changes of slices as they happen, as server-sent events",
                "parameters": [_LAST_EVENT_ID],
                "responses": {
                    "200": {
                        "description": "Each event's data is an Event, as JSON.",
                        "content": {
                            "text/event-stream": {"schema": {"$ref": "#/components/schemas/Event"}}
                        },
                    },
                    "503": _error("As many readers are connected as there may be."),
                },
            }
        },
        "/v1/live": {
            "get": {
                "summary": "Everything once and then what changes, for the live page",
                "responses": {
                    "200": {
                        "description": "Events snapshot, tick and change; see docs/admin-api.md.",
                        "content": {"text/event-stream": {"schema": {"type": "object"}}},
                    },
                    "503": _error("As many readers are connected as there may be."),
                },
            }
        },
        "/metrics": {"get": {"summary": "For Prometheus", "responses": {"200": metrics}}},
        "/livez": _get("Whether the gateway runs", "Liveness"),
        "/readyz": ready,
        "/openapi.json": {
            "get": {
                "summary": "This document",
                "responses": {"200": {"description": "OpenAPI 3.1.", "content": anything}},
            }
        },
    }


def _flower_paths() -> dict[str, Any]:
    """Describe what the page at /flowers is made of."""
    session = {"name": "session", "in": "path", "required": True, "schema": _TEXT}
    picture = {"name": "picture", "in": "path", "required": True, "schema": _COUNT}
    closed = _error("This flower client is closed, or there is no such picture.")
    forbidden = _error("The token may only read, or the call comes from another site's page.")
    rgb = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return {
        "/v1/flowers": {
            "post": {
                "summary": "Open a flower client; it lives as long as this answer is read",
                "responses": {
                    "200": {
                        "description": "Events hello and said; see docs/admin-api.md.",
                        "content": {"text/event-stream": {"schema": {"type": "object"}}},
                    },
                    "403": forbidden,
                    "409": _error("The gateway's port asks clients for a certificate."),
                    "503": _error("As many flower clients are open as there may be."),
                },
            }
        },
        "/v1/flowers/{session}": {
            "put": {
                "summary": "Keep so many requests outstanding",
                "parameters": [session],
                "requestBody": _json("How many.", "Outstanding") | {"required": True},
                "responses": {
                    "200": _json("So it is.", "Outstanding"),
                    "400": _error("Not a number that is allowed."),
                    "403": forbidden,
                    "404": closed,
                },
            }
        },
        "/v1/flowers/{session}/pictures/{picture}": {
            "post": {
                "summary": "Ask what is on a picture; the answer comes as an event",
                "parameters": [session, picture],
                "responses": {
                    "202": _json("Asked.", "Picture"), "403": forbidden, "404": closed,
                },
            },
            "put": {
                "summary": "Put another picture in its place",
                "parameters": [session, picture],
                "requestBody": {"description": "RGB, row by row.", "content": rgb},
                "responses": {
                    "200": _json("It is there.", "Picture"),
                    "400": _error("Not as many bytes as a picture has."),
                    "403": forbidden,
                    "404": closed,
                },
            },
        },
    }  # fmt: skip


def document(version: str) -> dict[str, Any]:
    """Return the description, OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "MIG Gateway admin API", "version": version},
        "security": [{}, {"token": []}],
        "paths": _secured(_slice_paths() | _gateway_paths() | _flower_paths()),
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
