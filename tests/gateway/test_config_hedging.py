"""`hedging:` in the configuration: when a request is late, and how many may be sent twice."""

import pytest

from gateway.config import Config, ConfigError, parse
from gateway.control.differences import differences
from gateway.hedging_rules import HedgingRules


def read(text: str) -> Config:
    return parse(f"inventory: x\n{text}", "g.yaml")


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("", HedgingRules()),
        ("hedging: {after: off}", HedgingRules()),
        ("hedging: {after: 'off', percent: 1}", HedgingRules(percent=1.0)),
        ("hedging: {after: 50ms}", HedgingRules(after_s=0.05)),
        ("hedging: {after: 2}", HedgingRules(after_s=2.0)),
        ("hedging: {after: p95, percent: 2.5}", HedgingRules(quantile=0.95, percent=2.5)),
        ("hedging: {after: p99.9}", HedgingRules(quantile=0.999)),
    ],
)
def test_it_is_off_or_says_what_is_late(text: str, rules: HedgingRules) -> None:
    found = read(text).hedging.rules()
    assert found.quantile == pytest.approx(rules.quantile)
    assert (found.after_s, found.percent, found.on) == (rules.after_s, rules.percent, rules.on)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("hedging: {after: soon}",
         "hedging.after: 'soon' is neither a duration such as 50ms, nor a share of the model's own "
         "answers from p50 to p99.99 such as p95, nor off"),
        ("hedging: {after: p5}", "hedging.after: 'p5' is neither"),
        ("hedging: {after: p100}", "hedging.after: 'p100' is neither"),
        ("hedging: {after: true}", "hedging.after: True is neither"),
        ("hedging: {after: 0}", "hedging.after: 0 is not within 1ms and 1h; off turns hedging off"),
        ("hedging: {after: 2h}", "hedging.after: '2h' is not within 1ms and 1h"),
        ("hedging: {percent: 0}", "hedging.percent is 0"),
        ("hedging: {percent: 101}", "hedging.percent is 101; the most allowed is 100"),
        ("hedging: {percent: '5%'}", "hedging.percent is '5%'"),
        ("hedging: {delay: 50ms}", "hedging.delay is no known key; known keys here: after, percent"),
        ("hedging: {after: 50ms}\nbalancing: {replay: unsent}",
         "hedging.after sends a request to two slices, and balancing.replay is 'unsent'"),
        ("hedging: {after: p95}\nbalancing: {replay: unsent}", "hedging.after sends a request"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(text: str, error: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(text)
    [found] = raised.value.errors
    assert found.startswith(f"g.yaml: {error}")


def test_models_that_must_not_be_asked_twice_go_with_hedging_that_is_off() -> None:
    read("hedging: {after: off}\nbalancing: {replay: unsent}")


def test_a_reload_takes_it_over() -> None:
    [change] = differences(read(""), read("hedging: {after: 50ms}"))
    assert (change.key, change.before, change.after) == ("hedging.after", "off", 0.05)
    assert change.is_live
