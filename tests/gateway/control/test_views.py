"""What the admin API answers about slices."""

from gateway.control import openapi, views
from gateway.fleet.health import CheckResult, Order
from gateway.fleet.outcomes import LOST, OK, SERVER_ERROR
from gateway.fleet.queue_report import report
from gateway.fleet.readiness import ALL
from tests.gateway.fleet.waiting import LimitedFleet
from tests.gateway.making import REFUSED, Fleet, live, make_spec


def test_a_slice_is_told_whole() -> None:
    fleet = Fleet()
    spec = make_spec("a", weight=2, mig_uuid="MIG-1", profile="2g.10gb", simulated=True)
    fleet.registry.replace([spec])
    member = fleet["a"]
    found = CheckResult(
        True, "live; 1 models ready", models={"m": ("1", "3"), "n": ("2",)}, took_s=0.004
    )
    fleet.registry.record(member, found)
    fleet.clock.now_s += 1.5
    member.http_requests, member.grpc_requests, member.failures, member.in_flight = 5, 7, 1, 3
    member.answered_http(0.010)
    assert views.slice_view(member, fleet.clock()) == {
        "name": "a",
        "state": "ready",
        "reason": "live; 1 models ready",
        "enabled": True,
        "order": "enabled",
        "healthy": True,
        "sequences": 0,
        "in_flight": 3,
        "max_in_flight": None,
        "weight": 2,
        "requests": 12,
        "http_requests": 5,
        "grpc_requests": 7,
        "failures": 1,
        "slow_start": 1.0,
        "ejections": [],
        "models": [
            {"name": "m", "version": "1"},
            {"name": "m", "version": "3"},
            {"name": "n", "version": "2"},
        ],
        "mig_uuid": "MIG-1",
        "profile": "2g.10gb",
        "simulated": True,
        "place": None,
        "http": "127.0.0.1:18000",
        "grpc": "127.0.0.1:18001",
        "metrics": None,
        "last_check": {
            "passed": True,
            "reason": "live; 1 models ready",
            "ago_s": 1.5,
            "took_ms": 4.0,
        },
        "latency_ms": {
            "http": views._quantiles(member.http_latency),
            "grpc": {"p50": 0.0, "p99": 0.0},
            "all": views._quantiles(member.http_latency),
        },
    }


def test_the_description_names_exactly_the_fields_that_are_told() -> None:
    fleet = Fleet("a")
    view = views.slice_view(fleet["a"], 0.0)
    described = openapi.SCHEMAS["Slice"]["properties"]
    assert list(described) == list(view)
    assert list(described["latency_ms"]["properties"]) == list(view["latency_ms"])
    assert view["last_check"]
    assert list(described["last_check"]["oneOf"][1]["properties"]) == list(view["last_check"])
    assert list(openapi.SCHEMAS["Readiness"]["properties"]) == list(
        views.readiness(fleet.registry, False)[1]
    )


def test_queues_tell_who_waits_and_how_many_each_slice_may_have() -> None:
    fleet = LimitedFleet("a", "b")
    for _ in range(4):
        fleet.ask()
    fleet.clock.now_s += 2.5
    queues = fleet.registry.queues
    view = views.queues(queues, report(queues))
    assert view["queues"] == [
        {
            "model": "m", "waiting": 2, "bytes": 200, "oldest_s": 2.5, "ended": {}, "refused": {},
            "slices": [
                {"name": "a", "in_flight": 1, "max_in_flight": 1},
                {"name": "b", "in_flight": 1, "max_in_flight": 1},
            ],
        }
    ]  # fmt: skip
    described = openapi.SCHEMAS["Queues"]["properties"]
    assert list(described) == list(view)
    assert list(described["queues"]["items"]["properties"]) == list(view["queues"][0])


def test_a_slice_that_was_never_checked_has_no_last_check() -> None:
    fleet = Fleet()
    fleet.registry.replace([make_spec("a")])
    view = views.slice_view(fleet["a"], 0.0)
    assert (view["state"], view["last_check"], view["models"]) == ("starting", None, [])


def test_the_reason_is_the_operators_order_where_there_is_one_else_what_was_seen() -> None:
    fleet = Fleet("a", "b", "c")
    fleet.registry.order(fleet["a"], Order.DISABLED, "test")
    fleet.registry.order(fleet["b"], Order.DRAINED, "test")
    fleet.registry.record(fleet["c"], REFUSED)
    reasons = [views.reason(member, 0.0) for member in fleet.registry.slices.values()]
    assert ["disabled" in reasons[0], "drained" in reasons[1], reasons[2]] == [
        True,
        True,
        "refused",
    ]


def test_a_slice_of_weight_zero_says_why_it_takes_no_work() -> None:
    fleet = Fleet()
    fleet.registry.replace([make_spec("a", weight=0)])
    fleet.registry.record(fleet["a"], live())
    assert "weight is 0" in views.reason(fleet["a"], 0.0)


def test_an_ejected_slice_says_why_and_when_it_is_tried_again() -> None:
    fleet = Fleet("a", "b")
    for outcome in (SERVER_ERROR, LOST):
        for _ in range(5):
            fleet.registry.attempt_ended(fleet["a"], "infer/m", outcome)
    fleet.clock.now_s += 1.0
    view = views.slice_view(fleet["a"], fleet.clock())
    assert (view["state"], view["healthy"], view["enabled"]) == ("ejected", True, True)
    assert "5 failures in a row" in view["reason"]
    assert "tried again in" in view["reason"]
    by_model = {entry["model"]: entry for entry in view["ejections"]}
    assert set(by_model) == {"", "m"}
    for entry in by_model.values():
        assert (entry["phase"], entry["times"]) == ("ejected", 1)
        assert 3.0 <= entry["remaining_s"] <= 5.0
    described = openapi.SCHEMAS["Slice"]["properties"]["ejections"]["items"]["properties"]
    assert list(described) == list(by_model[""])
    for phase in ("due", "trying"):
        if phase == "due":
            fleet.clock.now_s += 6.0
            fleet.registry.tick(0.5)
        else:
            assert fleet.registry.pool("infer/m").pick() is fleet["a"]
        view = views.slice_view(fleet["a"], fleet.clock())
        assert {entry["phase"] for entry in view["ejections"]} == {phase}
        assert view["state"] == "ejected"
    fleet.registry.attempt_ended(fleet["a"], "infer/m", OK)
    view = views.slice_view(fleet["a"], fleet.clock())
    assert (view["state"], view["ejections"], view["slow_start"]) == ("ready", [], 0.1)


def test_only_the_last_slice_that_can_serve_is_refused() -> None:
    fleet = Fleet("a", "b")
    registry = fleet.registry
    assert views.refusal_to_empty(fleet["a"], registry, Order.DISABLED) is None
    registry.record(fleet["b"], REFUSED)
    for order in (Order.DISABLED, Order.DRAINED):
        assert "a is the last slice" in str(views.refusal_to_empty(fleet["a"], registry, order))
        assert views.refusal_to_empty(fleet["b"], registry, order) is None
    assert views.refusal_to_empty(fleet["a"], registry, Order.ENABLED) is None


def test_readiness_says_why() -> None:
    fleet = Fleet("a", "b")
    fleet.registry.record(fleet["b"], REFUSED)
    ready = views.readiness(fleet.registry, False)
    assert ready == (
        True,
        {"ready": True, "reason": "1 of 2 slices can serve", "routable": 1, "slices": 2},
    )
    assert views.readiness(fleet.registry, True)[0] is False
    fleet.registry.ready_when = ALL
    ready_now, view = views.readiness(fleet.registry, False)
    assert not ready_now
    assert view["reason"].startswith("1 of 2 slices can serve, and `triton.ready` asks for all")
    fleet.registry.record(fleet["a"], REFUSED)
    ready_now, view = views.readiness(fleet.registry, False)
    assert not ready_now
    assert "a is unready, b is unready" in view["reason"]
    assert "no slices are known" in views.readiness(Fleet().registry, False)[1]["reason"]
