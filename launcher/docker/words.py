"""
What the engine refuses, as a sentence with the cure, pure.

The texts are the engine's (20.10 to 28.5), nvidia-container-cli's and the registry's. What matches
nothing is passed on in the engine's own words.
"""

import re
from typing import Final

TOOLKIT: Final = (
    "install the NVIDIA Container Toolkit on the machine of the engine, then "
    "`nvidia-ctk runtime configure --runtime=docker` and restart the engine"
)
CDI_REFRESH: Final = "`nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml`"
PORT: Final = "free it, or choose other ports with --port-base"
CURES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"unknown or invalid runtime name: nvidia|Unknown runtime specified nvidia"),
     f"the engine has no runtime `nvidia`; {TOOLKIT}"),
    (re.compile(r'could not select device driver "cdi"'),
     'the engine has CDI switched off; set "features": {"cdi": true} in its daemon.json and '
     "restart it (Docker 25 or later), or use another docker.binding"),
    (re.compile(r'could not select device driver "[^"]*" with capabilities: \[\[.*gpu'),
     f"the engine cannot hand out GPUs; {TOOLKIT}"),
    (re.compile(r"unresolvable CDI devices (?P<what>\S+)"),
     "the CDI specification does not know {what}, as it was written before the GPU was cut; write "
     f"it anew with {CDI_REFRESH}, or use another docker.binding"),
    (re.compile(r"device error: (?P<what>\S+): unknown device"),
     "the NVIDIA Container Toolkit does not know {what}: the GPU was cut anew, or the toolkit is "
     "older than the driver; see `nvidia-smi -L`, and run this again"),
    (re.compile(r"nvml error: driver not loaded|initialization error: driver"),
     "the NVIDIA driver is not loaded on the machine of the engine: `nvidia-smi` must work there"),
    (re.compile(r"Bind for (?P<what>\S+) failed: port is already allocated"),
     f"{{what}} is taken by another container; {PORT}"),
    (re.compile(r"listen tcp\d? (?P<what>\S+): bind: address already in use"),
     f"{{what}} is taken by another program; {PORT}"),
    (re.compile(r"listen tcp\d? (?P<what>\S+): bind: cannot assign requested address"),
     "{what} is no address of the engine's machine; choose another --host"),
    (re.compile(r"bind source path does not exist: (?P<what>\S+)"),
     "the machine of the engine has no folder {what}; the model repository must lie there"),
    (re.compile(r"network (?P<what>\S+) not found"),
     "the engine has no network {what}; `docker network create {what}` makes it"),
    (re.compile(r'exec: "?(?P<what>[^":]+)"?: executable file not found'),
     "the image has no program {what}; one that is to serve must be laid out as NVIDIA's Triton images"),
    (re.compile(r"Requested CPUs are not available"),
     "docker.cpus names cores that the machine does not have"),
    (re.compile(r"(?P<what>no space left on device)"),
     "the engine's disk is full; `docker system df` shows what takes it"),
    (re.compile(r"manifest unknown|manifest for .* not found|repository does not exist"),
     "the registry has no such image; check docker.image (--image)"),
    (re.compile(r"invalid reference format|repository name must be lowercase"),
     "that is no name of an image; check docker.image (--image)"),
    (re.compile(r"unauthorized|denied|authentication required"),
     "the registry wants to know who asks; `docker login` to it first"),
    (re.compile(r"no such host|i/o timeout|connection refused|TLS handshake|context deadline"),
     "the registry cannot be reached; check the network, or bring the image here with "
     "`docker load` and set docker.pull to never"),
)  # fmt: skip
REASON_CHARS_MAX: Final = 400


def explain(text: str) -> str:
    """Return the sentence for what the engine said."""
    plain = " ".join(text.split())
    for pattern, sentence in CURES:
        found = pattern.search(plain)
        if found:
            return sentence.replace("{what}", found.groupdict().get("what") or "")
    return plain if len(plain) <= REASON_CHARS_MAX else plain[: REASON_CHARS_MAX - 1] + "…"


def unreachable(text: str, address: str) -> str:
    """Return the sentence for an engine that does not answer."""
    if "PermissionError" in text or "Permission denied" in text:
        why = (
            "may not be used by you; join its group (`sudo usermod -aG docker $USER`, log in anew)"
        )
        return f"the Docker Engine at {address} {why}, or run this as root"
    if "FileNotFoundError" in text or "No such file" in text:
        why = (
            "there is no such socket; install Docker Engine and start it (`systemctl start docker`)"
        )
    elif "Invalid bind address" in text:
        why = "that is no address; unix:///var/run/docker.sock or tcp://HOST:2375 is one"
    elif "timed out" in text:
        why = "it takes too long; `systemctl status docker` tells how it is"
    elif "Connection refused" in text:
        why = "nothing listens there; start it (`systemctl start docker`)"
    else:
        why = " ".join(text.split())[:REASON_CHARS_MAX]
    return f"no Docker Engine answers at {address}: {why}, or name another with DOCKER_HOST"
