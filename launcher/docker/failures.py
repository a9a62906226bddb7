"""What can go wrong with an engine; each message is a sentence for the user."""

from launcher.errors import StartError


class EngineUnreachableError(StartError):
    """The engine does not answer; what it runs may well go on."""


class RefusedError(StartError):
    """The engine answered, and said no; the message has the cure."""


class GoneError(RefusedError):
    """There is no such container or image."""
