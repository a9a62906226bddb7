"""Each refusal that was seen of an engine becomes one sentence that says what to do."""

import pytest

from launcher.docker import words

HOOK = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: "
    "runc create failed: unable to start container process: error during container init: error "
    "running hook #0: error running hook: exit status 1, stdout: , stderr: Auto-detected mode as "
    "'legacy'\nnvidia-container-cli: device error: MIG-7: unknown device: unknown"
)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "Container Toolkit"),
        ('could not select device driver "nvidia" with capabilities: [[gpu]]', "nvidia-ctk runtime"),
        ('could not select device driver "cdi" with capabilities: []', "CDI switched off"),
        ("unknown or invalid runtime name: nvidia", "no runtime `nvidia`"),
        ("Unknown runtime specified nvidia", "no runtime `nvidia`"),
        ("CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=MIG-7",
         "does not know nvidia.com/gpu=MIG-7"),
        (HOOK, "does not know MIG-7: the GPU was cut anew"),
        ("nvidia-container-cli: initialization error: nvml error: driver not loaded", "nvidia-smi"),
        ("driver failed programming external connectivity on endpoint x (7c): Bind for "
         "127.0.0.1:8000 failed: port is already allocated",
         "127.0.0.1:8000 is taken by another container; free it"),
        ("driver failed programming external connectivity on endpoint x (7c): Error starting "
         "userland proxy: listen tcp4 127.0.0.1:8005: bind: address already in use",
         "127.0.0.1:8005 is taken by another program"),
        ("invalid mount config for type \"bind\": bind source path does not exist: /m",
         "has no folder /m"),
        ("network mig not found", "`docker network create mig`"),
        ('exec: "tritonserver": executable file not found in $PATH: unknown',
         "no program tritonserver"),
        ("write /var/lib/docker/tmp/x: no space left on device", "`docker system df`"),
        ("manifest for nvcr.io/nvidia/tritonserver:0 not found: manifest unknown", "--image"),
        ("Head \"https://nvcr.io/v2/x\": unauthorized: authentication required", "docker login"),
        ("dial tcp: lookup nvcr.io: no such host", "registry cannot be reached"),
        ("invalid reference format: repository name must be lowercase", "no name of an image"),
        ("something that nobody has seen", "something that nobody has seen"),
    ],
)  # fmt: skip
def test_a_refusal_comes_with_its_cure(said, sentence):
    assert sentence in words.explain(said)


def test_what_is_unknown_is_passed_on_but_not_without_end():
    assert len(words.explain("x" * 5000)) == words.REASON_CHARS_MAX


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("('Connection aborted.', FileNotFoundError(2, 'No such file or directory'))",
         "no Docker Engine answers at unix:///s: there is no such socket; install Docker Engine"),
        ("('Connection aborted.', PermissionError(13, 'Permission denied'))", "usermod -aG docker"),
        ("('Connection aborted.', ConnectionRefusedError(111, 'Connection refused'))",
         "nothing listens there"),
        ("Read timed out. (read timeout=5)", "it takes too long; `systemctl status docker`"),
        ("Invalid bind address format: port is required: foo", "that is no address"),
        ("something that nobody has seen", "something that nobody has seen"),
    ],
)  # fmt: skip
def test_an_engine_that_does_not_answer(error, sentence):
    assert sentence in words.unreachable(error, "unix:///s")
