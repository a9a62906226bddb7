"""
Finds a tritonserver: on PATH, or the one that the PyPI package nvidia-pytriton carries.

Nothing of that package is imported (that would pull in gRPC and more) and nothing is written into
it. Its Python backend needs a stub program for this Python's version beside its library, so that
backend folder is one of links in the user's cache.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from launcher.errors import StartError

STUB: Final = "triton_python_backend_stub"
CHECK_TIMEOUT_S: Final = 30.0
SYSTEM_FOLDERS: Final = (Path("/usr/lib"), Path("/lib"), Path("/usr/lib64"), Path("/lib64"))


@dataclass(frozen=True, slots=True)
class Installation:
    """
    A tritonserver that can be started.

    Attributes:
        binary: The program.
        arguments: What it needs to find its backends.
        environment: Variables it needs, to be laid over the launcher's own.
        stub: The Python backend's stub, where it is ours to place.
    """

    binary: Path
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    stub: Path | None = None


def find(wanted: Path | None) -> Installation:
    """
    Return the tritonserver `wanted`, else the one on PATH, else the one of nvidia-pytriton.

    One on PATH comes first: it is a full installation with backends for GPUs, as in NVIDIA's
    images, while the package has the Python backend alone.

    Raises:
        StartError: There is none, or something it needs is missing; says what to install.
    """
    if wanted is not None:
        if not (wanted.is_file() and os.access(wanted, os.X_OK)):
            raise StartError(f"tritonserver: {wanted} is not a program that can be run")
        return Installation(wanted.absolute())
    on_path = shutil.which("tritonserver")
    if on_path:
        return Installation(Path(on_path).absolute())
    return _from_package()


def check(found: Installation) -> None:
    """
    Run the stub for a moment, so that a missing library is told before a server hangs on it.

    Raises:
        StartError: It does not run.
    """
    if found.stub is None:
        return
    environment = {**os.environ, **found.environment}
    try:
        done = subprocess.run(  # noqa: S603 - a program of an installed package
            [found.stub],
            env=environment,
            capture_output=True,
            text=True,
            timeout=CHECK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartError(f"Triton's Python backend cannot run here: {error}") from error
    said = (done.stdout + done.stderr).strip()
    if done.returncode == 127 or "error while loading shared libraries" in said:
        raise StartError(f"Triton's Python backend cannot run here: {said[:300]}")


def find_libpython() -> Path:
    """
    Return the shared library of the Python that runs this: pyenv, Docker, uv and Debian builds.

    Raises:
        StartError: It has none, or it lies nowhere known.
    """
    name = str(sysconfig.get_config_var("INSTSONAME") or "")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if ".so" not in name:  # a static build names libpython3.11.a
        name = f"libpython{version}.so.1.0"
    loaded = _loaded_library(name)
    if loaded:
        return loaded
    base = Path(sys.base_prefix)
    folders = [
        base / "lib",
        Path(sys.executable).resolve().parent.parent / "lib",
        base / "lib" / str(sysconfig.get_config_var("MULTIARCH") or ""),
        Path(str(sysconfig.get_config_var("LIBDIR") or "/usr/lib")),
        Path("/usr/local/lib"),
    ]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    # Not ctypes.util.find_library: it may name another Python's library.
    raise StartError(
        f"{name} is missing, which Triton's Python backend needs: on Debian and Ubuntu install "
        f"libpython{version}; with pyenv build Python with PYTHON_CONFIGURE_OPTS=--enable-shared"
    )


def _from_package() -> Installation:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise StartError(
            "there is no tritonserver: none on PATH, and the package nvidia-pytriton is not "
            "installed; pip install 'mig-gateway[process]', or name one with --tritonserver"
        )
    package = Path(next(iter(spec.submodule_search_locations)))
    server, libraries = package / "tritonserver", package.parent / "nvidia_pytriton.libs"
    for path in (server / "bin" / "tritonserver", server / "backends" / "python", libraries):
        if not path.exists():
            raise StartError(
                f"{path} is missing: nvidia-pytriton has a server for x86-64 Linux only; "
                "name another tritonserver with --tritonserver"
            )
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / STUB
    if not stub.exists():
        have = ", ".join(sorted(path.name for path in stub.parent.parent.iterdir()))
        raise StartError(
            f"nvidia-pytriton has no Python backend for Python {version}; it has {have}"
        )
    _check_numpy()
    backends = _link_backends(server, stub)
    return Installation(
        binary=server / "bin" / "tritonserver",
        arguments=(f"--backend-directory={backends}",),
        environment=_environment(libraries, find_libpython()),
        stub=backends / "python" / STUB,
    )


def _check_numpy() -> None:
    try:
        numpy = importlib.metadata.version("numpy")
    except importlib.metadata.PackageNotFoundError:
        raise StartError(
            "numpy is missing, which Triton's Python backend needs: pip install 'numpy<2'"
        ) from None
    if int(numpy.split(".")[0]) >= 2:
        # Models would load and every inference fail: "output tensor shape does not match size".
        raise StartError(
            f"numpy {numpy} is too new for this Triton's Python backend: pip install 'numpy<2'"
        )


def _environment(libraries: Path, libpython: Path) -> dict[str, str]:
    """
    Return what the server must find.

    The stub's interpreter takes its prefix, and so the virtual environment's packages, from the
    python3 that comes first on PATH: the folder of sys.executable as called, not resolved.
    """
    folders = [str(libraries)]
    # A system folder is searched anyway; named first it could hide other libraries.
    if libpython.parent not in SYSTEM_FOLDERS and "-linux-gnu" not in str(libpython.parent):
        folders.append(str(libpython.parent))
    inherited = os.environ.get("LD_LIBRARY_PATH")
    path = os.environ.get("PATH", "/usr/bin:/bin")
    return {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), path]),
        "LD_LIBRARY_PATH": os.pathsep.join(folders + ([inherited] if inherited else [])),
    }


def _link_backends(server: Path, stub: Path) -> Path:
    """Make the backend folder of links; the same for all servers, safe to make at once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(str(stub).encode()).hexdigest()[:12]
    python = cache / "mig-gateway" / key / "backends" / "python"
    try:
        python.mkdir(parents=True, exist_ok=True)
        for source in (stub, *(server / "backends" / "python").glob("*triton_python*.*")):
            link = python / source.name
            if not (link.is_symlink() and link.readlink() == source):
                new = python / f".{source.name}.{os.getpid()}"
                new.unlink(missing_ok=True)
                new.symlink_to(source)
                new.replace(link)
    except OSError as error:
        raise StartError(
            f"{python} cannot be written ({error.strerror}); set XDG_CACHE_HOME to a folder that can"
        ) from error
    return python.parent


def _loaded_library(name: str) -> Path | None:
    """Return the library this very process has loaded, which is the right one for sure."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.endswith("/" + name):
            return Path(line[line.index("/") :])
    return None
