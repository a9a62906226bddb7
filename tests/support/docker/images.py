"""
Images for the tests, made here where no registry is reached; each once, then kept by the engine.

    PYTHON    stands in for the public image of that name, which the project's Dockerfile starts
              from: Debian's packages unpacked, CPython 3.11 laid out as there. It trusts what this
              machine trusts.
    TRITON    laid out like NVIDIA's image: the real server of nvidia-pytriton (CPU, Python
              backend), an entry point, curl, no CUDA.
"""

import hashlib
import importlib.metadata
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import docker

from tests.support.docker import debian
from tests.support.docker.engine import Engine

PYTHON = "python:3.11-slim-bookworm"
TRITON = "tritonserver:cpu"
LABEL = "mig-gateway.test-image"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PACKAGES = (
    "base-files", "bash", "ca-certificates", "coreutils", "curl", "dash", "debianutils", "findutils",
    "grep", "libc-bin", "libgomp1", "libpython3.11", "libstdc++6", "procps", "python3.11",
    "python3.11-venv", "sed", "tar", "zlib1g",
)  # fmt: skip
MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Folders that are links into /usr: packages are unpacked through them."""
UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/perl", "usr/lib/perl")
ENTRYPOINT = """#!/bin/bash
# As NVIDIA's: what was asked for takes this place.
exec "$@"
"""


def python(engine: Engine) -> str:
    """Return the name of the Python image, made when it is missing."""
    return _made(engine, PYTHON, _make_python)


def triton(engine: Engine) -> str:
    """Return the name of the Triton image, made when it is missing."""
    python(engine)
    return _made(engine, TRITON, _make_triton)


def _made(engine: Engine, name: str, make: Callable[[Engine, Path], str]) -> str:
    stamp = _stamp()
    try:
        if engine.client.images.get(name).labels.get(LABEL) == stamp:
            return name
    except docker.errors.ImageNotFound:
        pass
    with tempfile.TemporaryDirectory(dir=engine.folder) as context:
        dockerfile = make(engine, Path(context))
        build(engine, Path(context), f"{dockerfile}\nLABEL {LABEL}={stamp}\n", name)
    return name


def build(engine: Engine, context: Path, dockerfile: str, name: str) -> None:
    """Build an image; the network that its steps see is this machine's."""
    (context / "Dockerfile").write_text(dockerfile)
    command = ["docker", "build", "--quiet", "--network=host", f"--tag={name}", str(context)]
    debian.run(command, engine.environment)


def _stamp() -> str:
    """Return a text that changes when the images must be made anew."""
    parts = [Path(__file__).read_bytes(), importlib.metadata.version("nvidia-pytriton").encode()]
    if CERTIFICATES.exists():
        parts.append(CERTIFICATES.read_bytes())
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _make_python(engine: Engine, context: Path) -> str:
    """Unpack Debian into an image, and return what is to be done in it."""
    root = context / "root"
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    packages = debian.Repository(context / "apt", ["bookworm", "bookworm-updates"])
    debian.unpack(packages.fetch_with_dependencies(*PACKAGES), root)
    for name in UNUSED:
        shutil.rmtree(root / name, ignore_errors=True)
    # What install scripts would have done.
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (root / "etc" / "group").write_text("root:x:0:\n")
    for name in ("tmp", "proc", "sys", "dev"):
        (root / name).mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    if CERTIFICATES.exists():
        shutil.copy(CERTIFICATES, root / "etc" / "ssl" / "certs")
    _import(engine, root, "mig-gateway-tests:root")
    shutil.rmtree(root)
    shutil.rmtree(context / "apt")
    return """FROM mig-gateway-tests:root
ENV LANG=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
RUN ldconfig && python3.11 -m venv /usr/local
CMD ["python3"]
"""


def _import(engine: Engine, root: Path, name: str) -> None:
    with subprocess.Popen(
        ["tar", "--create", f"--directory={root}", "--numeric-owner", "."], stdout=subprocess.PIPE
    ) as tar:
        assert tar.stdout is not None
        answer = engine.client.api.import_image_from_stream(
            tar.stdout, repository=name.partition(":")[0], tag=name.partition(":")[2]
        )
    assert tar.returncode == 0
    assert "error" not in answer, answer


def _make_triton(engine: Engine, context: Path) -> str:
    """Lay out the installed nvidia-pytriton's server as NVIDIA's image has it."""
    files = importlib.metadata.files("nvidia-pytriton") or []
    package = next(Path(str(f.locate())).parent for f in files if str(f) == "pytriton/__init__.py")
    server, top = package / "tritonserver", context / "image" / "opt" / "tritonserver"
    for name in ("bin", "backends"):
        shutil.copytree(server / name, top / name, symlinks=True)
    shutil.copytree(package.parent / "nvidia_pytriton.libs", top / "lib")
    stub = "triton_python_backend_stub"
    shutil.copy(server / "python_backend_stubs" / "3.11" / stub, top / "backends" / "python" / stub)
    for program in (top / "bin" / "tritonserver", top / "backends" / "python" / stub):
        program.chmod(0o755)
    # Programs look for their libraries in ../../../nvidia_pytriton.libs.
    (context / "image" / "nvidia_pytriton.libs").symlink_to("opt/tritonserver/lib")
    entrypoint = context / "image" / "opt" / "nvidia" / "nvidia_entrypoint.sh"
    entrypoint.parent.mkdir()
    entrypoint.write_text(ENTRYPOINT)
    entrypoint.chmod(0o755)
    return f"""FROM {PYTHON}
# numpy 2 breaks the Python backend of this Triton.
RUN pip install --no-cache-dir --quiet 'numpy<2'
COPY image/ /
ENV PATH=/opt/tritonserver/bin:$PATH NVIDIA_VISIBLE_DEVICES=all
WORKDIR /opt/tritonserver
EXPOSE 8000 8001 8002
ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh"]
"""
