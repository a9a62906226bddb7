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

    assert set(cli.FLAGS.values()) <= set(LauncherConfig.model_fields)


def test_it_is_a_module_too(folder):
    command = [sys.executable, "-m", "launcher", "status", *folder]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("nothing is up")
