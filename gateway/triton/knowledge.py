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


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """
    What routing must know of a model.

    Attributes:
        sequences: All requests of one correlation id must reach the same slice: the model batches
            sequences, or is an ensemble with such a step.
        idle_us: For `sequences`: Triton gives a sequence up after this time without a request.
        decoupled: A request may have any number of responses.
    """

    sequences: bool = False
    idle_us: int = IDLE_DEFAULT_US
    decoupled: bool = False


def facts_of(name: str, configs: Mapping[str, dict[str, Any]]) -> ModelFacts:
    """Return the facts of model `name`; `configs` holds it and the steps of ensembles."""
    config = configs.get(name, {})
    batchers = list(_batchers(name, configs, DEPTH_MAX))
    idle = [_idle_us(batcher) for batcher in batchers]
    policy = config.get("model_transaction_policy")
    decoupled = isinstance(policy, dict) and policy.get("decoupled") is True
    return ModelFacts(bool(batchers), max(idle, default=IDLE_DEFAULT_US), decoupled)


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
