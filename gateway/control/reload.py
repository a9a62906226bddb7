"""
Reload: the configuration file is read again while everything runs.

Two steps, so that a broken file changes nothing: every target looks at the new configuration and
reads what it needs (certificates, tokens, an inventory); only when none of them has found a mistake
are all of them carried out, in one turn of the event loop. No connection is closed by a reload.

Wired in gateway.app; to make a new key live, write a ReloadTarget, or give `Apply` a function, and
name the key in differences.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from gateway.config import Config, ConfigError, load
from gateway.control import audit
from gateway.control.auth import Caller
from gateway.control.differences import Change, differences
from gateway.control.tasks import Tasks

log = structlog.get_logger()

BY_SIGNAL: Final = Caller("SIGHUP", "signal", "this machine", may_write=True)
"""Who may send it a signal could as well end the gateway."""


@dataclass(frozen=True, slots=True)
class Step:
    """
    What one target will do.

    Attributes:
        commit: Does it; it must not fail, and must not wait.
        changes: What is new though the configuration does not say so, such as a certificate.
    """

    commit: Callable[[], None]
    changes: tuple[Change, ...] = ()


class ReloadTarget(Protocol):
    """A part of the gateway that can take a new configuration over."""

    def prepare(self, config: Config) -> Step:
        """
        Look at `config` and change nothing yet; called in a thread, so it may read files.

        Raises:
            ConfigError: Something is wrong that only this part can find.
        """


class Apply:
    """The target for a part that finds nothing wrong: a function of the new configuration."""

    def __init__(self, function: Callable[[Config], None]) -> None:
        self._function = function

    def prepare(self, config: Config) -> Step:
        return Step(lambda: self._function(config))


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What a reload has done.

    Attributes:
        changed: In force now.
        needs_restart: Different from what the gateway was started with, and in force only after
            it is started anew.
    """

    changed: tuple[Change, ...]
    needs_restart: tuple[Change, ...]

    def view(self) -> dict[str, Any]:
        return {
            "changed": [change.view() for change in self.changed],
            "needs_restart": [change.view() for change in self.needs_restart],
        }


class Reloader:
    """
    Reads the file again, and carries out what is new in it.

    Args:
        path: The file the gateway was started with.
        started: What was in it then.
        targets: What takes a new configuration over, in this order.
        settle: Awaited after that: what needs time and cannot fail.
    """

    def __init__(
        self,
        path: Path,
        started: Config,
        targets: Sequence[ReloadTarget],
        settle: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        self.current = started
        self._path = path
        self._started = started
        self._targets = tuple(targets)
        self._settle = tuple(settle)
        self._running = asyncio.Lock()
        self._tasks = Tasks()
        self._asked = False

    async def reload(self, caller: Caller) -> Outcome:
        """
        Read the file and carry out what is new; one reload at a time, each reads the file anew.

        Raises:
            ConfigError: The file, or one that it names, cannot be used; nothing was changed.
        """
        async with self._running:
            self._asked = False  # who asks from here on means a newer file than the one read now
            try:
                config, steps = await asyncio.to_thread(self._prepare)
            except ConfigError as error:
                log.error(
                    "config.refused", path=str(self._path), asked_by=str(caller), errors=error.errors,
                    hint="nothing was changed",
                )  # fmt: skip
                raise
            found = [change for change in differences(self.current, config) if change.is_live]
            for step in steps:
                step.commit()
                found += step.changes
            self.current = config
            for settled in self._settle:
                await settled()
            waiting = [c for c in differences(self._started, config) if not c.is_live]
            for change in found:
                audit.changed(caller, change.key, change.before, change.after)
            outcome = Outcome(tuple(found), tuple(waiting))
            log.info(
                "config.reloaded", path=str(self._path), asked_by=str(caller),
                changed=[change.key for change in outcome.changed],
                needs_restart=[change.key for change in outcome.needs_restart],
            )  # fmt: skip
            return outcome

    def soon(self) -> None:
        """
        Reload in the background, as for SIGHUP; what comes of it is in the log.

        While one that was asked for so has not begun, another call adds nothing.
        """
        if not self._asked:
            self._asked = True
            self._tasks.start(self._on_signal(), "reload")

    async def stop(self) -> None:
        """Give up what was asked for by signal and is not done."""
        await self._tasks.stop()

    async def _on_signal(self) -> None:
        try:
            await self.reload(BY_SIGNAL)
        except ConfigError:
            pass  # logged

    def _prepare(self) -> tuple[Config, list[Step]]:
        config = load(self._path, again=True)
        steps, errors = [], []
        for target in self._targets:
            try:
                steps.append(target.prepare(config))
            except ConfigError as error:
                errors += [f"{self._path}: {message}" for message in error.errors]
        if errors:
            raise ConfigError(errors)
        return config, steps
