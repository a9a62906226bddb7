"""
Debian packages, fetched and unpacked into a folder of their own: nothing of the system is touched.

apt runs with a configuration, package lists and a status of its own; only the mirror is the one
that the machine uses anyway.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class NoDebianError(Exception):
    """This machine is no Debian, or its packages cannot be had; says why."""


class Repository:
    """Packages of some suites of this machine's mirror, in `folder`."""

    def __init__(self, folder: Path, suites: Iterable[str]) -> None:
        """Read the package lists. Raises NoDebianError."""
        self._folder = folder
        mirror = _mirror()
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("lists/partial", "cache/archives/partial", "sources", "empty"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()  # as if nothing were installed: every dependency is fetched
        (folder / "sources" / "tests.sources").write_text(
            f"Types: deb\nURIs: {mirror}\nSuites: {' '.join(suites)}\nComponents: main\n"
            f"Signed-By: {KEYRING}\n"
        )
        (folder / "apt.conf").write_text(
            f"""
            Dir::Etc::SourceList "/dev/null";
            Dir::Etc::SourceParts "{folder}/sources";
            Dir::Etc::Preferences "/dev/null";
            Dir::Etc::PreferencesParts "{folder}/empty";
            Dir::State::Lists "{folder}/lists";
            Dir::State::status "{folder}/status";
            Dir::Cache "{folder}/cache";
            APT::Install-Recommends "false";
            APT::Sandbox::User "root";
            Acquire::Languages "none";
            Acquire::Retries "3";
            """
        )
        self._apt("update")

    def fetch(self, *packages: str) -> list[Path]:
        """Return the files of just these packages; `NAME/SUITE` chooses where it comes from."""
        target = self._folder / "fetched"
        target.mkdir(exist_ok=True)
        self._apt("download", *packages, cwd=target)
        return sorted(target.glob("*.deb"))

    def fetch_with_dependencies(self, *packages: str) -> list[Path]:
        """Return the files of these packages and of all that they need."""
        self._apt("install", "--yes", "--download-only", *packages)
        return sorted((self._folder / "cache" / "archives").glob("*.deb"))

    def _apt(self, *arguments: str, cwd: Path | None = None) -> None:
        run(
            ["apt-get", "--quiet", *arguments],
            environment={"APT_CONFIG": str(self._folder / "apt.conf")},
            cwd=cwd,
        )


def unpack(files: Iterable[Path], into: Path) -> None:
    """Unpack packages; their install scripts are not run."""
    into.mkdir(parents=True, exist_ok=True)
    for file in files:
        run(["dpkg-deb", "--extract", str(file), str(into)])


def codename() -> str:
    """Return this Debian's name: bookworm. Raises NoDebianError."""
    fields = {}
    for line in Path("/etc/os-release").read_text().splitlines():
        key, _, value = line.partition("=")
        fields[key] = value.strip('"')
    if fields.get("ID") != "debian" or not shutil.which("apt-get") or not KEYRING.exists():
        raise NoDebianError(f"this is {fields.get('PRETTY_NAME', 'no Debian')}, not a Debian")
    return fields["VERSION_CODENAME"]


def run(
    command: list[str], environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> str:
    """Run a command and return its output; fail with all that it said."""
    done = subprocess.run(
        command,
        env={**os.environ, **(environment or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} exited {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def _mirror() -> str:
    """Return the mirror that this machine's own apt uses for its release."""
    name = codename()
    listed = run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]
    )
    for line in listed.splitlines():
        uri, _, release = line.partition(" ")
        if release == name:
            return uri
    raise NoDebianError(f"apt has no source for {name} here")
