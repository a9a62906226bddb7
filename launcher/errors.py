"""
What can go wrong that a user can read and mend.

    LauncherError
      ConfigError     a flag or the configuration file
      PlanError       the layout does not fit the GPU
      GpuError        the GPU refused a step
      StartError      a server cannot start, or ended before it was ready
      GatewayError    the gateway does not do what a re-cut needs of it
      BusyError       another launcher is at work on the same state folder

Each message is one sentence that names what was found, what was expected and what to do. The
command line prints it on standard error and exits with 2.
"""


class LauncherError(Exception):
    """A failure whose message is meant for the user as it stands."""


class ConfigError(LauncherError):
    """A flag or a key of the configuration file cannot be used; `problems` has one entry each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class PlanError(LauncherError):
    """The wanted layout does not exist on this GPU, or not beside what is there already."""


class GpuError(LauncherError):
    """The GPU refused to be cut or mended; the message has the step and NVML's own words."""


class StartError(LauncherError):
    """A server cannot be started here, or ended (or hung) before it was ready."""


class GatewayError(LauncherError):
    """The gateway does not answer, or cannot take a slice out of service now."""


class BusyError(LauncherError):
    """Another launcher holds the state folder."""
