"""
Look for bytes that break a target: `make fuzz`, or `python -m tests.fuzz.run --seconds 60 [TARGET]`.

atheris (Linux) mutates the seeds and what it finds behind them, guided by which lines run. What was
found is kept in run/fuzz/TARGET, and the next run goes on from there. An input that breaks a target is
written to run/fuzz, and its name is printed: put it, with a name that says what it is, into
tests/fuzz/seeds/TARGET, where every `make test` runs it.
"""

import argparse
import subprocess
import sys
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
)
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEEDS = Path(__file__).parent / "seeds"
INPUT_BYTES_MAX = 4096


def fuzz(name: str, arguments: list[str]) -> None:
    """Fuzz one target in this process, which does not return."""
    import atheris

    _prefer_sources()
    with atheris.instrument_imports(include=["gateway"]):
        from tests.fuzz.targets import TARGETS

    atheris.Setup([sys.argv[0], *arguments], TARGETS[name])
    atheris.Fuzz()


def _prefer_sources() -> None:
    """Import a module's source also where it was compiled: only there can be seen which lines run."""
    kinds = (SourceFileLoader, SOURCE_SUFFIXES), (ExtensionFileLoader, EXTENSION_SUFFIXES)
    sys.path_hooks.insert(0, FileFinder.path_hook(*kinds))
    sys.path_importer_cache.clear()


def main() -> int:
    names = sorted(folder.name for folder in SEEDS.iterdir())
    parser = argparse.ArgumentParser(prog="tests.fuzz.run", description=__doc__)
    parser.add_argument("target", nargs="*", help=f"from {', '.join(names)}; all unless told")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default 60)")
    if sys.argv[1:2] == ["--one"]:  # what is run for each target, below
        fuzz(sys.argv[2], sys.argv[3:])
    options = parser.parse_args()
    broken = []
    for name in options.target or names:
        if name not in names:
            parser.error(f"there is no target {name!r}; known: {', '.join(names)}")
        found = ROOT / "run" / "fuzz" / name
        found.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.fuzz.run", "--one", name]
        command += [str(found), str(SEEDS / name), f"-max_total_time={options.seconds}"]
        command += [f"-max_len={INPUT_BYTES_MAX}", "-timeout=10", "-print_final_stats=1"]
        command += [f"-artifact_prefix={found.parent}/{name}-"]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            broken.append(name)
    if broken:
        sys.stderr.write(f"broken: {', '.join(broken)}; the inputs are in run/fuzz\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
