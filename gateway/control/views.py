"""What the admin API answers, as plain dictionaries. Pure."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from contract.slice_spec import Endpoint
from gateway.control.exposition import ProcessFigures
from gateway.fleet.health import DISABLED, DRAINED, ENABLED, UP, Order
from gateway.fleet.histogram import Histogram
from gateway.fleet.lifecycle import DUE, EJECTED, FREE
from gateway.fleet.queue_report import QueueReport, waits
from gateway.fleet.queues import Queues
from gateway.fleet.readiness import is_ready
from gateway.fleet.registry import SliceRegistry
from gateway.fleet.slices import NO_LIMIT, Slice
from gateway.fleet.tally import Tally
from gateway.metrics import Counters

_ORDER_REASONS = {
    DRAINED: "drained by the operator: no new work, checks go on",
    DISABLED: "disabled by the operator",
}


def slices(members: Iterable[Slice], now_s: float) -> dict[str, Any]:
    """Return the answer to `GET /v1/slices`."""
    return {"slices": [slice_view(member, now_s) for member in members]}


def slice_view(member: Slice, now_s: float) -> dict[str, Any]:
    """Return everything users are told of one slice; `now_s` on the clock of its checks."""
    spec, health = member.spec, member.health
    return {
        "name": member.name,
        "state": member.state.value,
        "reason": reason(member, now_s),
        "enabled": member.order is ENABLED,
        "order": member.order.value,
        "healthy": health.health is UP,
        "in_flight": member.in_flight,
        "sequences": member.sequences,
        "max_in_flight": _limit(member.max_in_flight),
        "weight": member.weight,
        "requests": member.requests,
        "http_requests": member.http_requests,
        "grpc_requests": member.grpc_requests,
        "failures": member.failures,
        "slow_start": round(1 / member.drag, 3),
        "ejections": _ejections(member, now_s),
        "models": _models(member),
        "mig_uuid": spec.mig_uuid,
        "profile": spec.profile,
        "simulated": spec.simulated,
        "place": asdict(spec.place) if spec.place else None,
        "http": str(spec.http),
        "grpc": str(spec.grpc),
        "metrics": str(spec.metrics) if spec.metrics else None,
        "last_check": _last_check(member, now_s),
        "latency_ms": {
            "http": _quantiles(member.http_latency),
            "grpc": _quantiles(member.grpc_latency),
            "all": _quantiles(member.http_latency + member.grpc_latency),
        },
    }


def reason(member: Slice, now_s: float) -> str:
    """Say why the slice is in the state it is in."""
    if member.order is ENABLED:
        if member.health.health is not UP:
            return member.health.reason
        if not member.weight:
            return "its weight is 0, so it takes no work"
        tally = member.tallies.get("")
        if tally is not None and tally.ejection is not FREE:
            return f"{tally.reason}; {_when(tally, now_s)}"
        return member.health.reason
    return _ORDER_REASONS[member.order]


def balancing(policy: str, known: Iterable[str]) -> dict[str, Any]:
    """Return the answer to `GET` and `PUT /v1/balancing`."""
    return {"policy": policy, "known_policies": list(known)}


def queues(all_queues: Queues, told: QueueReport) -> dict[str, Any]:
    """Return the answer to `GET /v1/queues`; `told` is what all processes together hold."""
    found = []
    for model, line in sorted(all_queues.lines.items()):
        waiting, size, oldest_s = told["lines"].get(model, (0, 0, 0.0))
        found.append(
            {
                "model": model,
                "waiting": waiting,
                "bytes": size,
                "oldest_s": round(oldest_s, 3),
                "ended": _of_model(told["ended"], model),
                "refused": _of_model(told["refused"], model),
                "slices": [
                    {
                        "name": member.name, "in_flight": lane.taken(),
                        "max_in_flight": _limit(lane.limit),
                    }
                    for member, lane in line.lanes.items()
                ],
            }
        )  # fmt: skip
    wait = waits(told)
    return {
        "enabled": all_queues.settings.enabled,
        "wait_ms": _quantiles(wait),
        "queues": found,
    }


def _of_model(counts: dict[str, int], model: str) -> dict[str, int]:
    parts = ((*key.rpartition(" ")[::2], n) for key, n in counts.items())
    return {how: n for name, how, n in parts if name == model}


def _limit(limit: int) -> int | None:
    return None if limit >= NO_LIMIT else limit


def readiness(registry: SliceRegistry, not_serving: str) -> tuple[bool, dict[str, Any]]:
    """
    Return whether the gateway can serve, and the answer to `GET /readyz`.

    Args:
        not_serving: Why clients are not served, whatever the slices do; "" while they are.
    """
    routable = len(registry.everywhere.members)
    total = len(registry.slices)
    ready = is_ready(registry) and not not_serving
    if not_serving:
        why = not_serving
    elif routable:
        why = f"{routable} of {total} slices can serve"
        if not ready:
            why += ", and `triton.ready` asks for all that are enabled"
    elif total:
        states = sorted(f"{member.name} is {member.state.value}" for member in _some(registry))
        why = f"none of {total} slices can serve: {', '.join(states)}"
    else:
        why = "no slices are known yet"
    return ready, {"ready": ready, "reason": why, "routable": routable, "slices": total}


def gateway(
    version: str,
    clients: Iterable[Endpoint],
    policy: str,
    policies: Iterable[str],
    registry: SliceRegistry,
    not_serving: str,
    counters: Counters,
    figures: ProcessFigures,
    told: QueueReport,
) -> dict[str, Any]:
    """Return what the live page tells of the gateway itself, by the names that /metrics has."""
    _, ready = readiness(registry, not_serving)
    return {
        "version": version,
        "clients": [str(endpoint) for endpoint in clients],
        **balancing(policy, policies),
        "ready": ready["ready"],
        "reason": ready["reason"],
        "routable": ready["routable"],
        "panic": registry.panicking,
        "connections": counters.accepted - counters.closed,
        "waiting": sum(waiting for waiting, _, _ in told["lines"].values()),
        "http_requests": counters.http_requests,
        "grpc_calls": counters.grpc_calls,
        "replays": counters.replays,
        "hedges": counters.hedges,
        "hedges_won": counters.hedges_won,
        "faults": dict(sorted(counters.faults.items())),
        "limits": dict(sorted(counters.limits.items())),
        "workers": figures.workers,
        "worker_restarts": figures.restarts,
        "cpu_seconds": round(figures.cpu_s, 3),
        "resident_memory_bytes": figures.rss_bytes,
        "uptime_seconds": round(figures.uptime_s, 1),
    }


def refusal_to_empty(member: Slice, registry: SliceRegistry, order: Order) -> str | None:
    """Say why an order would leave nobody to serve; None when it would not."""
    routable = registry.everywhere.members
    if order is ENABLED or member not in routable or len(routable) > 1:
        return None
    return (
        f"{member.name} is the last slice that can serve; without it every request would fail. "
        "Add ?force=true (--force) if that is meant"
    )


def _some(registry: SliceRegistry) -> list[Slice]:
    """Return at most as many slices as a person reads in one sentence."""
    return list(registry.slices.values())[:16]


def _models(member: Slice) -> list[dict[str, str]]:
    return [
        {"name": name, "version": version}
        for name, versions in (member.models or {}).items()
        for version in versions or ("",)
    ]


def _ejections(member: Slice, now_s: float) -> list[dict[str, Any]]:
    """Return what is ejected: the slice as a whole, model "", and single models on it."""
    return [
        {
            "model": tally.model,
            "phase": tally.ejection.value,
            "reason": tally.reason,
            "remaining_s": round(_remaining_s(tally, now_s), 3),
            "times": tally.times,
        }
        for tally in member.tallies.values()
        if tally.ejection is not FREE
    ]


def _when(tally: Tally, now_s: float) -> str:
    if tally.ejection is EJECTED:
        return f"tried again in {_remaining_s(tally, now_s):.1f} s"
    return "the next request tries it" if tally.ejection is DUE else "a request is trying it"


def _remaining_s(tally: Tally, now_s: float) -> float:
    return max(0.0, tally.until_s - now_s) if tally.ejection is EJECTED else 0.0


def _last_check(member: Slice, now_s: float) -> dict[str, Any] | None:
    last = member.health.last
    if last is None:
        return None
    return {
        "passed": last.passed,
        "reason": last.reason,
        "ago_s": round(max(0.0, now_s - member.health.checked_at_s), 3),
        "took_ms": round(last.took_s * 1e3, 3),
    }


def _quantiles(latency: Histogram) -> dict[str, float]:
    p50_s, p99_s = latency.quantiles_s((0.50, 0.99))
    return {"p50": round(p50_s * 1e3, 3), "p99": round(p99_s * 1e3, 3)}
