"""What a configuration says about how requests may be spread."""

from typing import Any

from gateway.triton.knowledge import ModelFacts, facts_of

SEQUENCE = {"sequence_batching": {"max_sequence_idle_microseconds": 5000}}


def ensemble(*steps: str) -> dict[str, Any]:
    return {"ensemble_scheduling": {"step": [{"model_name": step} for step in steps]}}


def test_a_plain_model_needs_nothing() -> None:
    assert facts_of("m", {"m": {"dynamic_batching": {}}}) == ModelFacts()


def test_sequence_batching_binds_a_sequence_to_a_slice() -> None:
    assert facts_of("m", {"m": SEQUENCE}) == ModelFacts(sequences=True, idle_us=5000)


def test_without_a_time_tritons_own_default_counts() -> None:
    assert facts_of("m", {"m": {"sequence_batching": {}}}).idle_us == 1_000_000
    zero = {"sequence_batching": {"max_sequence_idle_microseconds": 0}}
    assert facts_of("m", {"m": zero}).idle_us == 1_000_000


def test_an_ensemble_with_such_a_step_does_too_however_deep() -> None:
    configs = {"e": ensemble("p", "f"), "f": ensemble("s"), "s": SEQUENCE, "p": {}}
    assert facts_of("e", configs) == ModelFacts(sequences=True, idle_us=5000)
    assert facts_of("p", configs) == ModelFacts()


def test_ensembles_that_name_each_other_end() -> None:
    assert facts_of("e", {"e": ensemble("f"), "f": ensemble("e")}) == ModelFacts()


def test_decoupled_is_told() -> None:
    assert facts_of("m", {"m": {"model_transaction_policy": {"decoupled": True}}}).decoupled


def test_a_configuration_of_the_wrong_shape_is_a_plain_model() -> None:
    odd = {"sequence_batching": 3, "ensemble_scheduling": [], "model_transaction_policy": "x"}
    assert facts_of("m", {"m": odd}) == ModelFacts()
