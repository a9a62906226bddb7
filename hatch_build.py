"""
Compiles the hot modules of the data plane with mypyc when the project is installed.

The same source runs uncompiled: where there is no C compiler, or with MIG_GATEWAY_COMPILE=0, nothing
is compiled and everything works, at about three times the Python cost of a gRPC call (see
docs/performance.md). What was compiled lies beside its source, also for an editable install, and is
made again when a source has changed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

GROUP = "mig_gateway_compiled"
MODULES = (
    "gateway/balance/policies.py",
    "gateway/fleet/histogram.py",
    "gateway/fleet/lanes.py",
    "gateway/fleet/line.py",
    "gateway/fleet/places.py",
    "gateway/fleet/slices.py",
    "gateway/relay/http1/answer_head.py",
    "gateway/relay/http1/body.py",
    "gateway/relay/http1/downstream.py",
    "gateway/relay/http1/exchange.py",
    "gateway/relay/http1/gatherer.py",
    "gateway/relay/http1/gathering.py",
    "gateway/relay/http1/grammar.py",
    "gateway/relay/http1/head.py",
    "gateway/relay/http1/hedging.py",
    "gateway/relay/http1/memo.py",
    "gateway/relay/http1/own_answers.py",
    "gateway/relay/http1/queuer.py",
    "gateway/relay/http1/replaying.py",
    "gateway/relay/http1/sender.py",
    "gateway/relay/http1/shared.py",
    "gateway/relay/http1/stock.py",
    "gateway/relay/http1/upstream.py",
    "gateway/relay/http2/budget.py",
    "gateway/relay/http2/call.py",
    "gateway/relay/http2/closed_streams.py",
    "gateway/relay/http2/composing.py",
    "gateway/relay/http2/connection.py",
    "gateway/relay/http2/downstream.py",
    "gateway/relay/http2/frames.py",
    "gateway/relay/http2/framing.py",
    "gateway/relay/http2/half.py",
    "gateway/relay/http2/headers.py",
    "gateway/relay/http2/hedging.py",
    "gateway/relay/http2/links.py",
    "gateway/relay/http2/own_answers.py",
    "gateway/relay/http2/queueing.py",
    "gateway/relay/http2/reading.py",
    "gateway/relay/http2/replaying.py",
    "gateway/relay/http2/runs.py",
    "gateway/relay/http2/sticky.py",
    "gateway/relay/http2/stream.py",
    "gateway/relay/http2/upstream.py",
    "gateway/relay/router.py",
)
SETUP = """
from mypyc.build import mypycify
from setuptools import setup
setup(name="compiled", packages=[], py_modules=[], ext_modules=mypycify(
    {paths!r}, opt_level="3", debug_level="0", group_name={group!r}))
"""


class CompileHook(BuildHookInterface[Any]):
    """Runs before hatchling collects the files of a wheel or an editable install."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if os.environ.get("MIG_GATEWAY_COMPILE") == "0":
            remove(root)
            return
        reason = missing()
        if reason:
            remove(root)
            self.app.display_warning(f"not compiled, runs as plain Python: {reason}")
            return
        if not up_to_date(root):
            remove(root)
            compile_modules(root)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["artifacts"] += [f"/{path.relative_to(root)}" for path in compiled(root)]
        for path in root.glob(f"{GROUP}*{suffix()}"):
            build_data["force_include"][str(path)] = path.name


def suffix() -> str:
    return str(sysconfig.get_config_var("EXT_SUFFIX"))


def compiled(root: Path) -> list[Path]:
    """Return the compiled modules that lie beside their sources."""
    return sorted((root / "gateway").rglob(f"*{suffix()}"))


def missing() -> str | None:
    """Say what keeps us from compiling; None when nothing does."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if not shutil.which(compiler):
        return f"there is no C compiler ({compiler})"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return None if header.exists() else f"{header} is missing"


def fingerprint(root: Path) -> str:
    """Return a hash of everything that decides what the compiler makes."""
    digest = hashlib.sha256(f"{sys.version}{suffix()}".encode())
    for name in (*MODULES, "hatch_build.py"):
        digest.update((root / name).read_bytes())
    return digest.hexdigest()


def up_to_date(root: Path) -> bool:
    stamp = root / "build" / "compiled.txt"
    return stamp.exists() and stamp.read_text() == fingerprint(root) and bool(compiled(root))


def remove(root: Path) -> None:
    """Remove what was compiled before: it would be imported instead of its source."""
    for path in [*compiled(root), *root.glob(f"{GROUP}*{suffix()}")]:
        path.unlink()
    (root / "build" / "compiled.txt").unlink(missing_ok=True)


def compile_modules(root: Path) -> None:
    (root / "build").mkdir(exist_ok=True)
    setup = root / "build" / "compile_setup.py"
    setup.write_text(SETUP.format(paths=list(MODULES), group=GROUP))
    # The project's own pyproject.toml would be read as setuptools' configuration, and mypy's
    # plugins in it are not installed here: both look in the folder they are started in.
    subprocess.run(
        [sys.executable, str(setup), "build_ext", "--inplace"],
        cwd=root,
        env={**os.environ, "MYPYPATH": str(root)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (root / "build" / "compiled.txt").write_text(fingerprint(root))
