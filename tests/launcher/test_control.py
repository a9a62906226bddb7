"""A launcher that is up answers over its socket, and over TCP where asked."""

import asyncio
import os
import socket
import urllib.error
import urllib.request
from dataclasses import replace

import pytest

from contract.slice_spec import Endpoint, SliceSpec
from launcher import apply_client, control, process_table
from launcher.config import LauncherConfig
from launcher.errors import LauncherError, PlanError, StartError
from launcher.job_settings import JobSettings
from launcher.runtime import Handle, ServerSpec
from launcher.state import JobRecord, ServerRecord, State

HERE = process_table.identify(os.getpid())
MEMBER = SliceSpec("s0", Endpoint("h", 1), Endpoint("h", 2), mig_uuid="MIG-1", profile="1g.5gb")
RECORD = ServerRecord(ServerSpec(MEMBER, "/m", ()), Handle("m_", HERE), "/x.log", "ready", 2)
STATE = State("simulated:a100-40gb", "process", "/x", servers=(RECORD,), settings="{}")


class Heard:
    def __init__(self):
        self.told = []

    def step(self, text):
        self.told.append(text)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_up():
    return True


async def test_a_recut_is_asked_for_and_followed(tmp_path):
    async def reshape(config, force, drain, progress):
        progress.step(f"{dict(config.layout)} {force} {drain}")
        progress.up()

    heard = Heard()
    async with control.serving(LauncherConfig(state_dir=tmp_path), lambda: STATE, reshape, is_up):
        assert control.socket_path(tmp_path).stat().st_mode & 0o077 == 0
        await apply_client.apply(tmp_path, {"layout": "3g,3g"}, True, False, heard)
    assert heard.told == ["{'all': ('3g', '3g')} True False"]
    assert not control.socket_path(tmp_path).exists()


async def test_a_failure_comes_back_with_its_words(tmp_path):
    async def reshape(config, force, drain, progress):
        raise PlanError("no room")

    async with control.serving(LauncherConfig(state_dir=tmp_path), lambda: STATE, reshape, is_up):
        with pytest.raises(LauncherError, match="no room"):
            await apply_client.apply(tmp_path, {"layout": "3g"}, False, True, Heard())
        with pytest.raises(LauncherError, match="has an empty name"):
            await apply_client.apply(tmp_path, {"layout": ","}, False, True, Heard())


async def test_a_caller_that_goes_away_interrupts_the_recut(tmp_path):
    begun, interrupted = asyncio.Event(), asyncio.Event()

    async def reshape(config, force, drain, progress):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            interrupted.set()

    async with control.serving(LauncherConfig(state_dir=tmp_path), lambda: STATE, reshape, is_up):
        async with asyncio.TaskGroup() as tasks:
            call = apply_client.apply(tmp_path, {"layout": "3g"}, False, True, Heard())
            caller = tasks.create_task(call)
            await begun.wait()
            caller.cancel()
        async with asyncio.timeout(10):
            await interrupted.wait()


async def test_a_launcher_that_is_still_starting_is_not_re_cut(tmp_path):
    async with control.serving(
        LauncherConfig(state_dir=tmp_path), lambda: STATE, None, lambda: False
    ):
        with pytest.raises(LauncherError, match="still starting; run this again"):
            await apply_client.apply(tmp_path, {"layout": "3g"}, False, True, Heard())


async def test_no_launcher_is_told(tmp_path):
    with pytest.raises(LauncherError, match="does not answer"):
        await apply_client.apply(tmp_path, {"layout": "3g"}, False, True, Heard())


TRAIN = JobSettings(name="train", slice="s0", image="i").model_dump_json()


async def test_monitoring_over_tcp_can_read_and_not_change(tmp_path):
    port, state, up = free_port(), [None], [False]
    config = LauncherConfig(state_dir=tmp_path, metrics=f"127.0.0.1:{port}")

    def get(path, method="GET"):
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    async with control.serving(config, lambda: state[0], None, lambda: up[0]):
        assert await asyncio.to_thread(get, "/readyz") == (503, "not ready: it is starting\n")
        assert (await asyncio.to_thread(get, "/livez"))[0] == 200
        assert "mig_launcher_slices 0" in (await asyncio.to_thread(get, "/metrics"))[1]
        state[0], up[0] = STATE, True
        status, text = await asyncio.to_thread(get, "/metrics")
        assert status == 200
        labels = '{slice="s0",profile="1g.5gb",mig_uuid="MIG-1"}'
        assert f"mig_launcher_slice_ready{labels} 1" in text
        assert f"mig_launcher_slice_restarts_total{labels} 2" in text
        assert "mig_launcher_runtime_answers 1" in text
        assert (await asyncio.to_thread(get, "/readyz"))[0] == 200
        assert f"mig_launcher_slice_gpu_warning{labels} 0" in text
        warned = replace(RECORD, state="restarting", warning="XID 48")
        state[0] = replace(STATE, servers=(warned,))
        assert (
            f"mig_launcher_slice_gpu_warning{labels} 1"
            in (await asyncio.to_thread(get, "/metrics"))[1]
        )
        assert await asyncio.to_thread(get, "/readyz") == (503, "not ready: s0\n")
        assert (await asyncio.to_thread(get, "/livez"))[0] == 200
        assert '"restarting"' in (await asyncio.to_thread(get, "/v1/status"))[1]
        ended = JobRecord(
            "train", "s0", TRAIN, Handle("mig-job-s0-1_"), "/l", "ended", 2, 7, "exit code 7"
        )
        lent = replace(RECORD, state="lent")
        state[0] = replace(STATE, servers=(lent,), jobs=(ended,))
        assert (await asyncio.to_thread(get, "/readyz"))[0] == 200
        _, text = await asyncio.to_thread(get, "/metrics")
        assert f"mig_launcher_slice_lent{labels} 1" in text
        for name, value in (("running", 0), ("restarts_total", 2), ("exit_code", 7)):
            assert f'mig_launcher_job_{name}{{job="train",slice="s0"}} {value}\n' in text
        assert (await asyncio.to_thread(get, "/v1/apply", "POST"))[0] == 404


async def test_an_address_that_is_taken_is_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        config = LauncherConfig(state_dir=tmp_path, metrics=where)
        with pytest.raises(StartError, match="cannot be had"):
            async with control.serving(config, lambda: STATE, None, is_up):
                pass
    assert not control.socket_path(tmp_path).exists()


async def test_a_state_folder_may_have_a_long_path(tmp_path):
    """A socket's path has 107 bytes; a folder's need not care."""

    async def reshape(config, force, drain, progress):
        progress.up()

    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    async with control.serving(LauncherConfig(state_dir=folder), lambda: STATE, reshape, is_up):
        await apply_client.apply(folder, {"layout": "3g"}, False, True, Heard())
