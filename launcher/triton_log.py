"""What Triton's own log says about why a server did not start, pure."""

import re
from typing import Final

LOAD_FAILED: Final = re.compile(r"failed to load '([^']+)' version \d+: (?:Internal: )?(.*)")
POLL_FAILED: Final = re.compile(r"Poll failed for model directory '([^']+)': (.*)")
STUB_FAILED: Final = re.compile(r"Failed to preinitialize Python stub: (.*)")
SERVICE_FAILED: Final = re.compile(r"failed to start (\w+) service: (?:\w+ - )?(.*)")
NO_LIBRARY: Final = re.compile(r"([^\s/:]+): error while loading shared libraries: (.*)")
BAD_OPTION: Final = re.compile(r"unrecognized option '?([^']*)'?")
PLAIN_ERROR: Final = re.compile(r"^error: (.*)")
LOG_PREFIX: Final = re.compile(r'^[IWEF]\d{4} [\d:.]+ +\d+ \S+\] ?"?|"\s*$')
REASON_CHARS_MAX: Final = 400


def hopeless(text: str) -> str | None:
    """
    Return why a server that still runs will never be ready; None when it may be.

    Triton waits for ever for a Python model whose stub ended before it began: when the model's
    file or the stub's libpython is missing.
    """
    for pattern, say in (
        (NO_LIBRARY, "{0} does not find a shared library: {1}"),
        (STUB_FAILED, "a Python model does not load: {0}"),
    ):
        found = pattern.search(text)
        if found:
            return _short(say.format(*found.groups()))
    return None


def explain(text: str) -> str:
    """Return why a server ended: the models that failed with Triton's reason, or its last words."""
    lines = text.splitlines()
    models: dict[str, str] = {}
    for line in lines:
        failed = LOAD_FAILED.search(line) or POLL_FAILED.search(line)
        if failed:
            models.setdefault(failed[1], _first_line(failed[2]))
    if models:
        return _short(
            "; ".join(f"model {name!r} does not load: {why}" for name, why in models.items())
        )
    waiting = hopeless(text)
    if waiting:
        return waiting
    for line in lines:
        service = SERVICE_FAILED.search(line)
        if service:
            return _short(f"its {service[1]} service cannot start: {_first_line(service[2])}")
        option = BAD_OPTION.search(line)
        if option:
            return _short(f"this tritonserver has no option {option[1]}")
    for line in reversed(lines):
        error = PLAIN_ERROR.search(line)
        if error:
            return _short(error[1])
    spoken = [line for line in lines if line.strip() and line[0] not in "+|"]
    return _short(LOG_PREFIX.sub("", spoken[-1])) if spoken else "it said nothing"


def _first_line(quoted: str) -> str:
    """Return the first line of a message that Triton logs quoted, with \\n for line ends."""
    return quoted.split("\\n")[0].rstrip('" ').rstrip()


def _short(text: str) -> str:
    return text if len(text) <= REASON_CHARS_MAX else text[: REASON_CHARS_MAX - 1] + "…"
