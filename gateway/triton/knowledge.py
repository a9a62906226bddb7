"""
Knowledge: what a model's configuration says about how its requests may be spread.

Learnt from a slice that has the model ready, before the first request is routed to it, and again
after each load or unload through the gateway.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from contract.slice_spec import SliceSpec
from gateway.fleet.lanes import IN_FLIGHT_MAX, UNLIMITED, ModelLimit
from gateway.triton.asking import Asker
from gateway.triton.calls import HttpCall, Silence

log = structlog.get_logger()

MODELS_MAX: Final = 4096
IDLE_DEFAULT_US: Final = 1_000_000
"""Triton's own, where a configuration gives none."""
TRIES_MAX: Final = 3
"""Readings of a configuration that changes while it is read."""
DEPTH_MAX: Final = 16
"""Ensembles within ensembles that are followed."""
_OWN_BATCHING: Final = frozenset({"tensorrtllm", "vllm"})
"""Backends that take new requests into a batch that runs; their configuration does not show it."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """
    What routing must know of a model.

    Attributes:
        sequences: All requests of one correlation id must reach the same slice: the model batches
            sequences, or is an ensemble with such a step.
        idle_us: For `sequences`: Triton gives a sequence up after this time without a request.
        decoupled: A request may have any number of responses.
        limit: Requests that one slice should have at once.
    """

    sequences: bool = False
    idle_us: int = IDLE_DEFAULT_US
    decoupled: bool = False
    limit: ModelLimit = UNLIMITED


def facts_of(name: str, configs: Mapping[str, dict[str, Any]]) -> ModelFacts:
    """Return the facts of model `name`; `configs` holds it and the steps of ensembles."""
    config = configs.get(name, {})
    batchers = list(_batchers(name, configs, DEPTH_MAX))
    idle = [_idle_us(batcher) for batcher in batchers]
    policy = config.get("model_transaction_policy")
    decoupled = isinstance(policy, dict) and policy.get("decoupled") is True
    limit = UNLIMITED if batchers or decoupled else limit_of(config)
    return ModelFacts(bool(batchers), max(idle, default=IDLE_DEFAULT_US), decoupled, limit)


def limit_of(config: Mapping[str, Any]) -> ModelLimit:
    """
    Return how many requests of a model a slice should have at once; UNLIMITED where nobody knows.

    Unbatched: one for each instance, and no more, for what waits in a slice cannot go to another
    one. With dynamic batching: one batch at work and one forming for each instance; with a limit
    of one batch the two share it, and batches halve. Of an ensemble, of sequences and of what
    batches in its own ways (decoupled models among them) the configuration does not say.

    Source: Triton's model_config.proto (ModelInstanceGroup, ModelDynamicBatching).
    """
    instances = _instances(config.get("instance_group"))
    if (
        not instances
        or config.get("backend") in _OWN_BATCHING
        or config.get("platform") == "ensemble"
    ):
        return UNLIMITED
    batcher, batch = config.get("dynamic_batching"), config.get("max_batch_size")
    if isinstance(batcher, dict) and type(batch) is int and batch > 0:
        at_once, batches = 2 * batch * instances, True
    else:
        at_once, batches = instances, False
    return ModelLimit(at_once, batches) if at_once <= IN_FLIGHT_MAX else UNLIMITED


def _instances(groups: object) -> int:
    """Return how many executions of a model a server runs at once; 0 when it cannot be told."""
    total = 0
    for group in groups if isinstance(groups, list) else []:
        count = group.get("count", 1) if isinstance(group, dict) else None
        if type(count) is not int or count < 0:
            return 0
        if group.get("passive") is True:
            continue  # it is loaded, and gets no requests
        gpus = group.get("gpus")
        on_gpus = group.get("kind") == "KIND_GPU" and isinstance(gpus, list)
        total += count * (max(1, len(gpus)) if on_gpus else 1)
    return total


def _batchers(
    name: str, configs: Mapping[str, dict[str, Any]], depth: int
) -> Iterable[dict[str, Any]]:
    config = configs.get(name, {})
    batcher = config.get("sequence_batching")
    if isinstance(batcher, dict):
        yield batcher
    if depth:
        for step in _steps(config):
            yield from _batchers(step, configs, depth - 1)


def _steps(config: dict[str, Any]) -> list[str]:
    """Return the models that an ensemble is made of."""
    ensemble = config.get("ensemble_scheduling")
    steps = ensemble.get("step") if isinstance(ensemble, dict) else None
    if not isinstance(steps, list):
        return []
    return [str(step.get("model_name")) for step in steps if isinstance(step, dict)]


def _idle_us(batcher: dict[str, Any]) -> int:
    try:
        return int(batcher.get("max_sequence_idle_microseconds") or IDLE_DEFAULT_US)
    except (TypeError, ValueError):
        return IDLE_DEFAULT_US


class Knowledge:
    """The configurations of all models that some slice has ready."""

    def __init__(self, asker: Asker, timeout_s: float) -> None:
        self._asker = asker
        self._timeout_s = timeout_s
        self._configs: dict[str, dict[str, Any]] = {}
        self._facts: dict[str, ModelFacts] = {}
        self._unknown: set[str] = set()  # told once
        self._revision = 0

    def facts(self, model: str) -> ModelFacts | None:
        """Return what is known of a model; None for one that no slice has had ready."""
        return self._facts.get(model)

    def forget(self, model: str) -> None:
        """The model is being loaded or unloaded: it may be another one now."""
        self._revision += 1
        self._configs.pop(model, None)

    async def learn(self, spec: SliceSpec, models: Iterable[str]) -> None:
        """Ask the slice at `spec` for the configuration of those of `models` that are not known."""
        missing = [model for model in models if model not in self._configs]
        for model in missing[: MODELS_MAX - len(self._configs)]:
            if not await self._learn_one(spec, model):
                return  # it will not answer for the others either; the next check asks again
        if missing:
            # An ensemble's facts follow from its steps, which may have come after it.
            self._facts = {name: facts_of(name, self._configs) for name in self._configs}

    async def _learn_one(self, spec: SliceSpec, model: str) -> bool:
        """Return False when the slice does not answer."""
        for _ in range(TRIES_MAX):
            revision = self._revision
            call = HttpCall("GET", f"/v2/models/{model}/config")
            outcome = await self._asker.ask(spec, call, self._timeout_s)
            if isinstance(outcome, Silence):
                return False
            if revision != self._revision:
                continue  # what was read may be older than the change
            config = _object(outcome.body) if outcome.ok else None
            if config is not None:
                self._configs[model] = config
                self._unknown.discard(model)
            elif model not in self._unknown:
                self._unknown.add(model)
                log.warning("config.not_learnt", slice=spec.name, model=model, reason=outcome.said)
            break
        return True

    def keep_only(self, models: Iterable[str]) -> None:
        """Forget models that no slice has any more."""
        wanted = set(models)
        for gone in [model for model in self._configs if model not in wanted]:
            del self._configs[gone]
            self._facts.pop(gone, None)
        self._unknown &= wanted


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
