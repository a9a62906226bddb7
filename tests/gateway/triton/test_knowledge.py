"""What a configuration says about how requests may be spread."""

from typing import Any

import pytest

from gateway.fleet.lanes import UNLIMITED, ModelLimit
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


GPU = {"kind": "KIND_GPU", "count": 2, "gpus": [0]}
CPU = {"kind": "KIND_CPU", "count": 3}


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"instance_group": [GPU]}, ModelLimit(2)),
        ({"instance_group": [GPU, CPU]}, ModelLimit(5)),
        ({"instance_group": [{**GPU, "gpus": [0, 1]}]}, ModelLimit(4)),
        ({"instance_group": [CPU, {**GPU, "passive": True}]}, ModelLimit(3)),
        ({"instance_group": [CPU], "max_batch_size": 8}, ModelLimit(3)),
        ({"instance_group": [CPU], "max_batch_size": 8, "dynamic_batching": {}},
         ModelLimit(48, batches=True)),
        ({"instance_group": [CPU], "max_batch_size": 0, "dynamic_batching": {}}, ModelLimit(3)),
        ({}, UNLIMITED),
        ({"instance_group": []}, UNLIMITED),
        ({"instance_group": [{"count": "many"}]}, UNLIMITED),
        ({"instance_group": "GPU"}, UNLIMITED),
        ({"platform": "ensemble", "instance_group": [CPU]}, UNLIMITED),
        ({"backend": "vllm", "instance_group": [CPU]}, UNLIMITED),
        ({"backend": "tensorrtllm", "instance_group": [CPU], "max_batch_size": 64}, UNLIMITED),
        ({"model_transaction_policy": {"decoupled": True}, "instance_group": [CPU]}, UNLIMITED),
        ({"sequence_batching": {}, "instance_group": [CPU]}, UNLIMITED),
        ({"instance_group": [{"count": 10**9}]}, UNLIMITED),
    ],
)  # fmt: skip
def test_a_slice_should_have_what_its_instances_can_work_on(
    config: dict[str, object], limit: ModelLimit
) -> None:
    """One each; with dynamic batching one batch at work and one forming; else nobody knows."""
    assert facts_of("m", {"m": config}).limit == limit
