"""The configuration file: small when all is well, and every mistake named when not."""

from dataclasses import fields
from ipaddress import ip_network
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from contract.slice_spec import Endpoint, SliceSpec
from gateway.balance.policies import POLICIES
from gateway.config import Config, ConfigError, load, parse
from gateway.fleet.ejection import EjectionSettings
from gateway.fleet.health import Thresholds
from gateway.forwarding_rules import ForwardingRules
from gateway.limits import Limits, Timeouts

SLICES = """
slices:
  - {name: s0, http: "127.0.0.1:8000", grpc: "127.0.0.1:8001"}
"""
EXAMPLE = Path(__file__).parents[2] / "configs" / "gateway.example.yaml"


def errors(text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        parse(text, "g.yaml")
    found = raised.value.errors
    assert all(error.startswith("g.yaml: ") for error in found)
    return [error.removeprefix("g.yaml: ") for error in found]


def test_a_list_of_slices_is_a_complete_configuration() -> None:
    config = parse(SLICES, "g.yaml")
    assert config.listen == (Endpoint("0.0.0.0", 50050),)
    assert config.admin.listen == Endpoint("127.0.0.1", 9001)
    assert config.balancing.policy == "least_load"
    assert config.limits.values() == Limits()
    assert config.timeouts.values() == Timeouts()
    assert config.health.thresholds() == Thresholds(rise=2, fall=3)
    assert (config.health.interval, config.health.timeout) == (1.0, 0.5)
    assert config.state_file == Path("run/gateway-state.json")
    assert config.inventory is None
    [spec] = config.specs
    assert spec == SliceSpec("s0", Endpoint("127.0.0.1", 8000), Endpoint("127.0.0.1", 8001))


def test_what_slices_are_told_of_a_requests_origin_can_be_set() -> None:
    text = "forwarding: {via: true, request_id: off, trusted_proxies: 10.0.0.0/8}\ninventory: x"
    rules = parse(text, "g.yaml").forwarding.rules()
    assert rules == ForwardingRules(
        via=True, request_id="off", trusted_proxies=(ip_network("10.0.0.0/8"),)
    )


def test_an_inventory_is_a_complete_configuration() -> None:
    config = parse("inventory: run/slices.json", "g.yaml")
    assert (config.inventory, config.specs) == (Path("run/slices.json"), ())


def test_neither_slices_nor_inventory_is_an_error() -> None:
    for text in ("", "# nothing", "slices: []", "slices:", "listen: '0.0.0.0:1'"):
        assert errors(text) == [
            "neither slices nor inventory is given; at least one of them is needed"
        ]


def test_everything_can_be_set() -> None:
    config = parse(
        """
        listen: ["0.0.0.0:50050", "[::1]:50051"]
        admin: {listen: "127.0.0.1:9100"}
        balancing: {policy: round_robin, replay: unsent}
        slices:
          - {name: s0, http: "h:1", grpc: "h:2", metrics: "h:3", weight: 2}
        inventory: run/slices.json
        health: {interval: 500ms, timeout: 1, rise: 1, fall: 5, fast_interval: 100ms, down_interval: 1m}
        limits: {body_bytes: 1MiB, streams: 10, replay_bytes: 0}
        timeouts: {connect: 250ms, response: 2m, idle: 0}
        state_file: /var/lib/gateway/state.json
        log: {level: debug, format: json}
        """,
        "g.yaml",
    )
    assert config.listen == (Endpoint("0.0.0.0", 50050), Endpoint("::1", 50051))
    assert config.balancing.replay == "unsent"
    assert config.specs[0].metrics == Endpoint("h", 3)
    assert config.specs[0].weight == 2.0
    limits, timeouts = config.limits.values(), config.timeouts.values()
    assert (limits.body_bytes, limits.streams, limits.replay_bytes) == (2**20, 10, 0)
    assert (timeouts.connect_s, timeouts.response_s, timeouts.idle_s) == (0.25, 120.0, 0.0)
    assert (config.health.interval, config.health.down_interval) == (0.5, 60.0)
    assert (config.log.level, config.log.format) == ("debug", "json")


def test_every_limit_and_timeout_is_a_key_and_its_default_is_allowed() -> None:
    """A field that is added to gateway.limits must not need a second place."""
    limits = {item.name: item.default for item in fields(Limits)}
    timeouts = {item.name.removesuffix("_s"): item.default for item in fields(Timeouts)}
    text = yaml.safe_dump({"inventory": "x", "limits": limits, "timeouts": timeouts})
    config = parse(text, "g.yaml")
    assert config.limits.values() == Limits()
    assert config.timeouts.values() == Timeouts()


def test_every_policy_of_the_table_may_be_named() -> None:
    for name in POLICIES:
        config = parse(f"inventory: x\nbalancing: {{policy: {name}}}", "g.yaml")
        assert config.balancing.policy == name


def test_the_rules_of_ejection_can_be_set_and_turned_off() -> None:
    assert parse("inventory: x", "g.yaml").ejection.values() == EjectionSettings()
    config = parse(
        """
        inventory: x
        ejection: {consecutive: 3, window: 1m, ratio: 0.2, samples: 5, latency_factor: off,
                   duration: 500ms, duration_max: 1m, jitter: 0, slow_start: false, panic: 0}
        health: {probe: both, models: [a, b]}
        """,
        "g.yaml",
    )
    assert config.ejection.values() == EjectionSettings(
        consecutive=3, window_s=60.0, ratio=0.2, samples=5, latency_factor=0.0,
        duration_s=0.5, duration_max_s=60.0, jitter=0.0, slow_start_s=0.0, panic_s=0.0,
    )  # fmt: skip
    assert (config.health.probe, config.health.models) == ("both", ("a", "b"))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("ejection: {ratio: 2}", "ejection.ratio is 2; the most allowed is 1"),
        ("ejection: {consecutive: -1}", "ejection.consecutive is -1; the least allowed is 0"),
        ("ejection: {consecutive: 1.5}", "ejection.consecutive is 1.5; allowed is a whole number"),
        ("ejection: {duration: 0}", "ejection.duration is 0; the least allowed is 0.1"),
        ("ejection: {enabled: 1}", "ejection.enabled is 1"),
        ("ejection: {windo: 1}", "ejection.windo is no known key; did you mean window?"),
        (
            "health: {probe: tcp}",
            "health.probe: 'tcp' is no probe; known probes: triton, grpc, both",
        ),
        ("health: {models: ['a/b']}", "health.models[0]: 'a/b' is no model's name"),
    ],
)
def test_a_mistake_in_how_slices_are_judged(text: str, error: str) -> None:
    [found] = errors(text + "\ninventory: x")
    assert found.startswith(error)


def test_a_section_left_empty_means_its_defaults() -> None:
    assert parse("inventory: x\nlimits:\nhealth:\nslices:", "g.yaml").limits.values() == Limits()


def test_all_mistakes_are_named_at_once() -> None:
    found = errors(
        """
        lisen: 1
        balancing: {policy: leastconn}
        slices:
          - {name: s0, http: "127.0.0.1:8000", grpc: "127.0.0.1:8001", weights: 2}
          - {name: s0, http: "127.0.0.1", grpc: 8001}
          - {name: "a b", http: "127.0.0.1:70000", weight: "3"}
          - 7
        health: {interval: fast, rise: 0, fall: 2.5}
        limits: {body_bytes: 3GiB, frame_bytes: 1KiB, streams: lots}
        timeouts: {connect: -1}
        log: {level: loud, format: xml}
        admin: 9001
        """
    )
    keys = [error.replace(": ", " ").split(" ")[0] for error in found]
    assert sorted(keys) == sorted(
        [
            "lisen", "balancing.policy", "slices[0].weights", "slices[1].name", "slices[1].http",
            "slices[1].grpc", "slices[2].name", "slices[2].http", "slices[2].grpc",
            "slices[2].weight", "slices[3]", "health.interval", "health.rise", "health.fall",
            "limits.body_bytes", "limits.frame_bytes", "limits.streams", "timeouts.connect",
            "log.level", "log.format", "admin",
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("balancing: {policy: leastconn}",
         "balancing.policy: 'leastconn' is no policy; known policies: least_load, round_robin"),
        ("balancing: {replay: all}",
         "balancing.replay: 'all' is no choice; known choices: any, unsent"),
        ("limits: {replay_percent: 101}",
         "limits.replay_percent is 101; the most allowed is 100"),
        ("balancing: {policies: x}",
         "balancing.policies is no known key; did you mean policy? known keys here: policy, replay"),
        ("nonsense: x",
         "nonsense is no known key; known keys here: listen, tls, admin, balancing, slices, "
         "inventory, health, ejection, queue, hedging, limits, timeouts, forwarding, triton, "),
        ("timeouts: {connects: 1}", "timeouts.connects is no known key; did you mean connect?"),
        ("listen: 50050", "listen is 50050; allowed is a list"),
        ("listen: '50050'", "listen: '50050' is not host:port"),
        ("listen: ['a:1', 'b']", "listen[1]: 'b' is not host:port"),
        ("listen: []", "listen is []; at least 1 is needed"),
        ("limits: {body_bytes: 3GiB}",
         "limits.body_bytes is '3GiB'; the most allowed is 2147483647"),
        ("limits: {frame_bytes: 1KiB}",
         "limits.frame_bytes is '1KiB'; the least allowed is 16384"),
        ("limits: {streams: true}", "limits.streams is True; allowed is a whole number"),
        ("timeouts: {idle: 30h}", "timeouts.idle is '30h'; the most allowed is 86400.0"),
        ("health: {interval: 0}", "health.interval is 0; the least allowed is 0.05"),
        ("health: []", "health is []; allowed is a mapping of keys"),
        ("state_file: 7", "state_file: 7 is no path of a file"),
        ("log: {level: loud}",
         "log.level: 'loud' is no level; known levels: debug, info, warning, error"),
        ("forwarding: {request_id: yes}",
         "forwarding.request_id: True is no choice; known choices: pass, make, off"),
        ("forwarding: {trusted_proxies: [10.0.0.1/8]}",
         "forwarding.trusted_proxies[0]: '10.0.0.1/8' is no network such as 10.0.0.0/8: "
         "10.0.0.1/8 has host bits set"),
        ("forwarding: {trusted_proxies: [7]}",
         "forwarding.trusted_proxies[0]: 7 is no network"),
        ("log: {level: []}", "log.level: [] is no level"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_where_it_is_what_came_and_what_is_allowed(
    text: str, error: str
) -> None:
    [found] = errors(text + "\ninventory: x")
    assert found.startswith(error)


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ('{name: s1, http: "h:1"}', "slices[1].grpc is missing"),
        ('{name: s1, http: "h:1", grpc: 2}', "slices[1].grpc: 2 is no address"),
        ('{name: s0, http: "h:1", grpc: "h:2"}', "slices[1].name is 's0', and so is slices[0].name"),
        ('{name: s1, http: "h:1", grpc: "h:2", weight: 1001}',
         "slices[1].weight is 1001; the most allowed is 1000"),
        ('{name: s1, http: "h:1", grpc: "h:2", weight: -1}', "slices[1].weight is -1; the least"),
        ('{name: "s/1", http: "h:1", grpc: "h:2"}', "slices[1].name: 's/1' is no slice name"),
        ('{name: s1, http: "127.0.0.1:50050", grpc: "h:2"}',
         "slices[1].http is '127.0.0.1:50050', where the gateway itself listens (listen)"),
        ('{name: s1, http: "h:1", grpc: "localhost:9001"}',
         "slices[1].grpc is 'localhost:9001', where the gateway itself listens (admin.listen)"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_slice(entry: str, error: str) -> None:
    [found] = errors(f"{SLICES}  - {entry}\n")
    assert found.startswith(error)


def test_a_port_of_ours_on_another_machine_is_not_ours() -> None:
    parse('slices: [{name: s, http: "10.0.0.9:50050", grpc: "10.0.0.9:9001"}]', "g.yaml")


@pytest.mark.parametrize(
    ("listen", "admin", "clash"),
    [
        ("127.0.0.1:9001", "127.0.0.1:9001", True),
        ("0.0.0.0:9001", "127.0.0.1:9001", True),
        ("127.0.0.1:9001", "0.0.0.0:9001", True),
        ("127.0.0.1:9001", "127.0.0.2:9001", False),
        ("127.0.0.1:9002", "127.0.0.1:9001", False),
    ],
)
def test_two_cannot_listen_on_one_port(listen: str, admin: str, clash: bool) -> None:
    text = f'inventory: x\nlisten: "{listen}"\nadmin: {{listen: "{admin}"}}'
    if clash:
        assert "two cannot listen on one port" in errors(text)[0]
    else:
        parse(text, "g.yaml")


def test_the_default_admin_port_counts_as_well() -> None:
    assert "admin.listen" in errors('inventory: x\nlisten: "0.0.0.0:9001"')[0]


def test_slices_that_share_an_endpoint_are_allowed_and_warned_about() -> None:
    text = SLICES + '  - {name: s1, http: "127.0.0.1:8000", grpc: "127.0.0.1:8011"}\n'
    assert parse(text, "g.yaml").warnings == ["slices s0 and s1 have the same http: 127.0.0.1:8000"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: [", "g.yaml: line 1, column 5:"),
        ("a: 1\na: 2", "g.yaml: line 2, column 1: the key 'a' is given twice"),
        ("slices:\n  - {name: a, name: b}", "g.yaml: line 2, column 15: the key 'name' is given"),
        ("- a", "g.yaml: must be a mapping of keys, not a list"),
        ("just text", "g.yaml: must be a mapping of keys, not text"),
        ("\x00", "g.yaml: "),
        ("!!python/object:os.system {}", "g.yaml: line 1, column 1: could not determine"),
        ("[" * 1500, "g.yaml: "),
    ],
)
def test_what_is_no_usable_yaml_says_where(text: str, error: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(text, "g.yaml")
    assert str(raised.value).startswith(error)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml: cannot be read: No such file"):
        load(tmp_path / "missing.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(binary)


def test_the_example_is_valid_and_shows_every_key_at_its_default() -> None:
    """Whoever copies the example gets what they would have had without it."""
    document = yaml.safe_load(EXAMPLE.read_text())
    config = load(EXAMPLE)
    plain = parse("inventory: x", "g.yaml")
    assert set(document) == set(Config.model_fields)
    for section in ("admin", "balancing", "health", "ejection", "limits", "timeouts", "log"):
        given = getattr(config, section)
        assert given == getattr(plain, section), section
        assert set(document[section]) == set(type(given).model_fields), section


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**10) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(
    st.dictionaries(st.sampled_from([*Config.model_fields, "x"]), VALUES, max_size=6)
    | st.fixed_dictionaries({"slices": st.lists(VALUES, max_size=3)})
)
def test_any_document_is_a_configuration_or_named_mistakes(document: dict[str, object]) -> None:
    text = yaml.safe_dump(document)
    try:
        parse(text, "g.yaml")
    except ConfigError as error:
        found = error.errors
    else:
        found = ["none"]
    assert found
