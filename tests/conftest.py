"""
Unit tests run the gateway's source, also where it has been compiled (see hatch_build.py): they
subclass and replace what compiled code does not let them. End-to-end tests start the gateway as a
program, which runs what is installed: compiled where that was possible. Set
MIG_GATEWAY_TEST_COMPILED=1 to run the unit tests on compiled code too; about three cannot.
"""

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from hypothesis import HealthCheck, settings


class SourceFirst(MetaPathFinder):
    """Finds the gateway's modules by their source only."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("gateway.") or path is None:
            return None
        name = fullname.rpartition(".")[2]
        for folder in path:
            source = Path(folder) / f"{name}.py"
            if source.exists():
                return importlib.util.spec_from_file_location(fullname, source)
        return None


if os.environ.get("MIG_GATEWAY_TEST_COMPILED") != "1":
    sys.meta_path.insert(0, SourceFirst())

# How long an example takes says how busy the machine is, not that the code is wrong.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")
