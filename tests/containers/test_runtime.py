"""The Docker runtime on a real engine, with a stand-in for NVIDIA's tools only."""

import os
import signal
import socket

import pytest

from launcher.docker.failures import EngineUnreachableError
from launcher.docker.runtime import DockerRuntime
from launcher.docker.server import NEVER_RAN
from launcher.docker.settings import DockerSettings
from launcher.docker.spec import container_name
from launcher.errors import StartError
from launcher.ready import is_ready
from launcher.runtime import Handle
from tests.containers.marks import CONTAINERS
from tests.e2e.stack import free_block, wait_until
from tests.launcher.docker.specs import MARKER, UUID, server
from tests.launcher.helpers import write_model
from tests.support.docker import images, registry
from tests.support.docker.engine import Engine

pytestmark = CONTAINERS
OTHER = "MIG-00000000-0000-5000-8000-000000000002"


@pytest.fixture
def spec(tmp_path):
    return server(port=free_block(), models=str(write_model(tmp_path / "models", "echo")))


@pytest.fixture
def runtime(tmp_path):
    async def make(**settings):
        wanted = DockerSettings(image=images.TRITON, pull="never", **settings)
        made = DockerRuntime(wanted, tmp_path / "run")
        await made.check(print)
        return made

    return make


async def until_ready(found, spec):
    while not await is_ready(spec.member.http):
        assert not found.has_ended(), await found.wait_ended()


async def why_not(made, spec, tmp_path):
    """Start what cannot start; return what its log says, and make sure that nothing is left."""
    log = tmp_path / "s0.log"
    found = made.start(spec, MARKER, log)
    assert await found.wait_ended() == NEVER_RAN
    assert made.find(found.handle) is None
    made.sweep([MARKER])
    return log.read_text()


async def end(made, found):
    found.kill()
    await found.wait_ended()
    made.sweep([found.handle.marker])


@pytest.mark.parametrize(
    ("binding", "way"),
    [("gpus", "hook"), ("runtime", "runtime"), ("cdi", "cdi"), ("auto", "runtime")],
)
async def test_a_container_is_given_its_device_and_no_other(
    engine: Engine, runtime, spec, tmp_path, binding, way
):
    engine.nvidia.set_devices([OTHER, UUID])
    made = await runtime(binding=binding)
    before = len(engine.nvidia.grants())
    found = made.start(spec, MARKER, tmp_path / "s0.log")
    await until_ready(found, spec)
    (grant,) = engine.nvidia.grants()[before:]
    assert (grant.way, grant.uuids) == (way, (UUID,))
    assert made.look(found.handle).container == container_name(MARKER)
    await end(made, found)


async def test_a_device_that_the_toolkit_does_not_know(engine, runtime, spec, tmp_path):
    engine.nvidia.set_devices([OTHER])
    for binding in ("gpus", "runtime"):
        said = await why_not(await runtime(binding=binding), spec, tmp_path)
        assert said.startswith(f"error: the NVIDIA Container Toolkit does not know {UUID}: ")


async def test_a_cdi_specification_that_is_older_than_the_cut(engine, runtime, spec, tmp_path):
    engine.nvidia.set_devices([OTHER, UUID])
    engine.nvidia.set_cdi_devices([OTHER])
    said = await why_not(await runtime(binding="cdi"), spec, tmp_path)
    assert f"does not know nvidia.com/gpu={UUID}" in said
    assert "nvidia-ctk cdi generate" in said


async def test_a_port_that_another_program_has(engine, runtime, spec, tmp_path):
    with socket.create_server(("127.0.0.1", spec.member.grpc.port)):
        said = await why_not(await runtime(binding="none"), spec, tmp_path)
    assert f"{spec.member.grpc} is taken by another program; free it" in said


async def test_a_port_that_another_container_has(engine, runtime, spec, tmp_path):
    port = {"80/tcp": ("127.0.0.1", spec.member.http.port)}
    other = engine.client.containers.run(images.TRITON, ["sleep", "60"], ports=port, detach=True)
    said = await why_not(await runtime(binding="none"), spec, tmp_path)
    assert f"{spec.member.http} is taken by another container; free it" in said
    other.remove(force=True)


async def test_an_image_that_is_not_there(engine, tmp_path):
    with pytest.raises(StartError, match=r"no image none/such:1 .*`docker pull none/such:1`"):
        await DockerRuntime(DockerSettings(image="none/such:1", pull="never"), tmp_path).check(
            print
        )
    heard = []
    # A port where nothing listens: no registry is asked, wherever this runs.
    absent = DockerSettings(image="127.0.0.1:9/none/such:1")
    with pytest.raises(StartError, match=r"registry cannot be reached"):
        await DockerRuntime(absent, tmp_path).check(heard.append)
    assert heard[0] == "pulling 127.0.0.1:9/none/such:1"


async def test_an_image_is_pulled_with_progress(engine, tmp_path):
    (tmp_path / "layer").write_bytes(os.urandom(32 * 1024 * 1024))
    images.build(engine, tmp_path, "FROM scratch\nCOPY layer /\n", "pulled:1")
    heard = []
    with registry.serving(engine.client, "pulled:1", "some/triton") as name:
        wanted = engine.client.images.get("pulled:1").id
        engine.client.images.remove("pulled:1")
        await DockerRuntime(DockerSettings(image=name), tmp_path / "run").check(heard.append)
        assert engine.client.images.get(name).id == wanted
        engine.client.images.remove(name)
    assert heard[0] == f"pulling {name}"
    assert heard[-1] == f"pulling {name}: 34 of 34 MB", heard


async def test_no_engine_at_all(engine, monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(EngineUnreachableError, match="there is no such socket; install Docker"):
        await DockerRuntime(DockerSettings(), tmp_path).check(print)


async def test_a_model_repository_that_the_engine_does_not_see(engine, runtime, spec, tmp_path):
    gone = server(port=spec.member.http.port, models=str(tmp_path / "none"))
    said = await why_not(await runtime(binding="none"), gone, tmp_path)
    assert f"has no folder {tmp_path / 'none'}" in said


async def test_models_and_all_else_can_only_be_read(engine, runtime, spec, tmp_path):
    made = await runtime(binding="none")
    found = made.start(spec, MARKER, tmp_path / "s0.log")
    await until_ready(found, spec)
    inside = engine.client.containers.get(container_name(MARKER))
    for path in ("/models/x", "/opt/x"):
        code, said = inside.exec_run(["touch", path])
        assert (code, b"Read-only file system" in said) == (1, True), said
    assert inside.exec_run(["touch", "/tmp/x"])[0] == 0
    _, status = inside.exec_run(["grep", "-E", "CapEff|NoNewPrivs", "/proc/1/status"])
    assert status.split() == [b"CapEff:", b"0000000000000000", b"NoNewPrivs:", b"1"]
    await end(made, found)


async def test_the_launcher_that_comes_after_finds_it_and_notices_its_end(
    engine, runtime, spec, tmp_path
):
    first = await runtime(binding="none")
    begun = first.start(spec, MARKER, tmp_path / "s0.log")
    await until_ready(begun, spec)
    second = await runtime(binding="none")
    found = second.find(Handle(MARKER))
    assert second.find(Handle(MARKER)) is found
    assert second.look(Handle(MARKER)).pid == first.look(Handle(MARKER)).pid
    found.kill()
    assert await found.wait_ended() == "exit code 137"
    assert await begun.wait_ended() == "exit code 137"
    assert second.find(Handle(MARKER)) is None
    second.sweep([MARKER])


async def test_one_that_is_told_to_end_before_it_runs_never_does(engine, runtime, spec, tmp_path):
    made = await runtime(binding="none")
    found = made.start(spec, MARKER, tmp_path / "s0.log")
    found.terminate()
    await found.wait_ended()
    made.sweep([MARKER])
    assert made.look(found.handle) is None


async def test_a_container_of_that_name_that_is_not_ours_stays(engine, runtime):
    name = container_name(MARKER)
    other = engine.client.containers.run(images.TRITON, ["sleep", "60"], name=name, detach=True)
    made = await runtime(binding="none")
    assert made.find(Handle(MARKER)) is None
    made.sweep([MARKER])
    other.reload()
    assert other.status == "running"
    other.remove(force=True)


async def test_what_the_engine_starts_again_by_itself_is_another_start(
    engine, runtime, spec, tmp_path
):
    """A launcher replaces it: each start has a name of its own, and is counted."""
    made = await runtime(binding="none")
    found = made.start(spec, MARKER, tmp_path / "s0.log")
    await until_ready(found, spec)
    pid = made.look(found.handle).pid

    os.kill(pid, signal.SIGKILL)
    how = await found.wait_ended()
    assert how in ("exit code 137", "restarted by the engine")
    made.sweep([MARKER])
    wait_until(lambda: made.look(found.handle) is None, "it is gone")
