"""The command line: commands, exit codes, and sentences on standard error."""

import json
import subprocess
import sys

import pytest

from launcher import cli
from tests.launcher.helpers import REPOSITORY


def call(capsys, *arguments):
    code = cli.main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def folder(tmp_path):
    return ["--state-dir", str(tmp_path / "run")]


def test_profiles(capsys, folder):
    code, out, err = call(capsys, "profiles", "--gpu", "simulated", *folder)
    assert (code, err) == (0, "")
    assert "1g.5gb+me" in out
    assert "simulated" in out


def test_profiles_as_json(capsys, folder):
    gpu = ["--gpu", "simulated:h200-141gb"]
    document = json.loads(call(capsys, "profiles", "--json", *gpu, *folder)[1])
    assert document["simulated"]
    assert document["profiles"][0]["name"] == "1g.18gb"


def test_plan_changes_nothing(capsys, folder, tmp_path):
    layout = ["--gpu", "simulated:a100-40gb", "--layout", "3g,2g,1g,1g"]
    code, out, _ = call(capsys, "plan", *layout, *folder)
    assert code == 0
    assert "create 4 GPU instances" in out
    document = json.loads(call(capsys, "plan", "--json", *layout, *folder)[1])
    assert [s["profile"] for s in document["slices"]] == ["3g.20gb", "2g.10gb", "1g.5gb", "1g.5gb"]
    assert list(tmp_path.iterdir()) == []


def test_several_gpus_are_listed_each(capsys, folder):
    gpu = ["--gpu", "simulated:a100-40gb,t4-16gb"]
    document = json.loads(call(capsys, "profiles", "--json", *gpu, *folder)[1])
    assert [entry["has_mig"] for entry in document["gpus"]] == [True, False]
    out = call(capsys, "profiles", *gpu, *folder)[1]
    assert "GPU 1: Tesla T4 (simulated), no MIG: it cannot be cut" in out


def test_a_plan_is_a_picture(capsys, folder):
    layout = ["--gpu", "simulated:a100-40gb,a30-24gb", "--layout", "0=3g@4,2g;1=all-1g"]
    out = call(capsys, "plan", *layout, *folder)[1]
    assert (
        "  after   [   s1 2g.10gb   ]    ·        ·    [            s0 3g.20gb            ]" in out
    )
    assert "  after   [ s2 1g ][ s3 1g ][ s4 1g ][ s5 1g ]" in out


def test_an_old_driver_tells_when_the_mode_is_on(capsys, folder):
    gpu = ["--gpu", "simulated:a30-24gb?driver=535&mig=off"]
    out = call(capsys, "profiles", *gpu, *folder)[1]
    assert (
        "MIG mode off (`--enable-mig` switches it on); this driver tells the profiles only" in out
    )
    assert "does not tell its MIG profiles" in call(capsys, "plan", *gpu, *folder)[2]


def test_mig_parteds_files_are_layouts(capsys, folder, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "version: v1\nmig-configs:\n  mine:\n  - {devices: all, mig-enabled: true,"
        " mig-devices: {1g.5gb: 2, 3g.20gb: 1}}\n"
    )
    arguments = ["--gpu", "simulated", "--mig-parted", str(path), *folder]
    document = json.loads(call(capsys, "plan", "--json", *arguments)[1])
    assert [s["profile"] for s in document["slices"]] == ["1g.5gb", "1g.5gb", "3g.20gb"]


def test_dry_runs_change_nothing(capsys, folder, tmp_path):
    gpu = ["--gpu", "simulated", "--layout", "3g"]
    assert "create 1 GPU instances" in call(capsys, "up", "--dry-run", *gpu, *folder)[1]
    assert "nothing is up" in call(capsys, "down", "--dry-run", *folder)[1]
    assert list(tmp_path.iterdir()) == []


def test_the_mode_is_switched_off_only_when_asked(capsys, folder):
    gpu = ["--gpu", "simulated:h100-80gb"]
    call(capsys, "down", *gpu, *folder)
    assert "MIG mode on" in call(capsys, "profiles", *gpu, *folder)[1]
    out = call(capsys, "down", "--disable-mig", *gpu, *folder)[1]
    assert "MIG mode switched off on NVIDIA H100 80GB HBM3 (simulated)" in out
    assert "MIG mode off" in call(capsys, "profiles", *gpu, *folder)[1]


def test_top_shows_once_where_there_is_no_terminal(capsys, folder):
    assert "nothing is up" in call(capsys, "top", *folder)[1]


def test_a_file_and_flags(capsys, folder, tmp_path):
    path = tmp_path / "launcher.yaml"
    path.write_text("gpu: simulated:a30-24gb\nport_base: 9000\n")
    arguments = ["--config", str(path), "--port-base", "9500", *folder]
    document = json.loads(call(capsys, "plan", "--json", *arguments)[1])
    assert [s["http"] for s in document["slices"]] == [f"127.0.0.1:95{i}0" for i in range(4)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "--gpu", "first"], "'first' is no GPU"),
        (["plan", "--gpu", "simulated:t4-16gb"], "cannot be cut: it has no MIG"),
        (["plan", "--gpu", "simulated", "--layout", "9=1g"], "the layout names GPU '9'"),
        (["apply", "3g"], "nothing is up"),
        (["apply"], "nothing is up"),
        (["up", "--gpu", "simulated:a30-24gb?mig=off"], "MIG mode is off on GPU 0"),
        (["up", "--gpu", "mps:simulated", "--shares", "0"], "write a number of equal shares"),
        (["plan", "--gpu", "simulated", "--layout", "4g,4g"], "needs 8 compute slices"),
        (["plan", "--gpu", "simulated", "--layout", "1g.7gb"], "no profile '1g.7gb'"),
        (["plan", "--gpu", "simulated", "--layout", "1g,,"], "flag: layout: '1g,,' has an empty"),
        (["plan", "--gpu", "simulated", "--port-base", "0"], "flag: port_base: "),
        (["status", "--config", "/no/such.yaml"], "/no/such.yaml: cannot be read"),
        (["up", "--gpu", "simulated", "--runtime", "vm"], "runtime: Input should be 'process'"),
        (["up", "--gpu", "simulated", "--", "--http-port=1"], "--http-port is set by the launcher"),
        (["up", "--gpu", "simulated", "--tritonserver", "/nope"], "/nope is not a program"),
        (
            ["up", "--gpu", "simulated", "--model-repository", "/nope"],
            "model repository /nope does not exist; name one with --model-repository",
        ),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_exit_code_2(capsys, folder, arguments, words):
    at = arguments.index("--") if "--" in arguments else len(arguments)
    code, _, err = call(capsys, *arguments[:at], *folder, *arguments[at:])
    assert code == 2
    assert words in err
    assert all(line.startswith("mig-launcher: ") for line in err.splitlines())


def test_arguments_for_triton_make_sense_for_up_only(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["status", "--", "--log-verbose=1"])
    assert caught.value.code == 2


def test_status_and_down_of_nothing(capsys, folder):
    assert call(capsys, "status", *folder)[:2] == (0, f"nothing is up (state folder {folder[1]})\n")
    assert json.loads(call(capsys, "status", "--json", *folder)[1])["up"] is False
    assert call(capsys, "down", *folder)[:2] == (0, f"nothing is up (state folder {folder[1]})\n")


def test_every_flag_that_overrides_a_key_names_a_key():
    from launcher.config import LauncherConfig
    from launcher.docker.settings import DockerSettings

    inner = {f"docker.{key}" for key in DockerSettings.model_fields}
    assert set(cli.FLAGS.values()) <= set(LauncherConfig.model_fields) | inner


def test_it_is_a_module_too(folder):
    command = [sys.executable, "-m", "launcher", "status", *folder]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("nothing is up")
