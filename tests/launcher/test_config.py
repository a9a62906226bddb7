"""The configuration: sensible defaults, flags over file, every error with its path."""

from pathlib import Path

import pytest

from launcher import config
from launcher.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "configs" / "launcher.example.yaml"


def problems(tmp_path, text, **flags):
    path = tmp_path / "launcher.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.load(path, flags)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


def test_nothing_at_all_is_a_configuration():
    found = config.load(None, {})
    assert found.layout == {"all": ("all-1g",)}
    assert (found.host, found.port_base) == ("127.0.0.1", 8000)
    assert found.model_repository == "configs/models"
    assert str(found.inventory_file) == "run/slices.json"


def test_flags_win_over_the_file(tmp_path):
    path = tmp_path / "launcher.yaml"
    path.write_text("gpu: simulated\nport_base: 9000\nlayout: [3g, 2g, 1g, 1g]\n")
    found = config.load(path, {"port_base": 9100, "gpu": None})
    assert (found.gpu, found.port_base) == ("simulated", 9100)
    assert found.layout == {"all": ("3g", "2g", "1g", "1g")}


def test_every_error_is_told_with_its_path(tmp_path):
    told = problems(tmp_path, "port_bse: 1\nrestart: {max_delay_s: -1, first: 2}\nhost: ''\n")
    assert len(told) == 4
    assert any(line.startswith("port_bse: unknown key; known keys: gpu, layout") for line in told)
    assert any(line.startswith("restart.max_delay_s: ") and "-1" in line for line in told)
    assert any(line.startswith("restart.first: unknown key") for line in told)
    assert any(line.startswith("host: ") for line in told)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1", "must be a mapping"),
        ("a: [", "not YAML"),
        ("layout: '1g,,1g'", "layout: '1g,,1g' has an empty name"),
        ("layout: 7", "layout"),
        ("port_base: 70000", "port_base: Input should be less than"),
        ("triton_args: [--http-port=1]", "--http-port is set by the launcher; use port_base"),
        (
            "triton_args: ['--backend-config=python,shm-region-prefix-name=x']",
            "shm-region-prefix-name is set by the launcher",
        ),
        ("restart: {first_delay_s: 9, max_delay_s: 1}", "max_delay_s must not be below"),
        ("runtime: podman", "runtime: Input should be 'process' or 'docker'"),
        ("docker: {imag: x}", "docker.imag: unknown key; known keys: image, pull"),
        ("docker: {shm_size: lots}", "docker.shm_size"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, text, words):
    assert words in " ".join(problems(tmp_path, text))


def test_a_wrong_flag_is_not_blamed_on_the_file(tmp_path):
    (told,) = problems(tmp_path, "gpu: simulated\n", port_base=0)
    assert told.startswith("flag: port_base: ")


def test_a_flag_reaches_into_a_mapping(tmp_path):
    path = tmp_path / "launcher.yaml"
    path.write_text("docker: {image: a, memory: 4g}\n")
    found = config.load(path, {"docker.image": "b"})
    assert (found.docker.image, found.docker.memory) == ("b", "4g")
    assert config.load(None, {"docker.image": "c"}).docker.image == "c"
    (told,) = problems(tmp_path, "docker: {memory: 4g}\n", **{"docker.image": ""})
    assert told.startswith("flag: docker.image: ")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        config.load(tmp_path / "none.yaml", {})


def test_the_example_is_valid_and_states_the_defaults():
    stated = config.load(EXAMPLE, {})
    assert stated.gpu == "simulated:a100-40gb"
    assert stated.model_copy(update={"gpu": None, "inventory": None}) == config.LauncherConfig()


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ("{name: a, slice: s0, profile: 1g, image: i}", "name either a slice or a profile"),
        ("{name: a, image: i}", "name either a slice or a profile"),
        ("{name: a, slice: s0}", "name an image, or a command"),
        ("{name: a, slice: s0, command: [x], volumes: ['/a:/b']}", "are for a job with an image"),
        ("{name: a, slice: s0, image: i, ports: ['8888']}", "'8888' is no port"),
        ("{name: a, slice: s0, image: i, ports: ['80:99999']}", "'80:99999' is no port"),
        ("{name: A b, slice: s0, image: i}", "jobs.0.name: "),
        ("{name: a, slice: s0, image: i, gpu: 1}", "jobs.0.gpu: unknown key; known keys: name,"),
        (
            "{name: a, slice: s0, image: i}, {name: a, slice: s1, image: i}",
            "two jobs have the same",
        ),
    ],
)
def test_a_job_that_cannot_be_meant_is_refused(tmp_path, job, words):
    (told,) = problems(tmp_path, f"jobs: [{job}]\n")
    assert words in told


def test_shares_by_mps_have_no_containers(tmp_path):
    """Neither can be told at one key, so the file is named alone."""
    (told,) = problems(tmp_path, "gpu: mps\njobs: [{name: a, slice: s0, image: i}]\n")
    assert told.startswith("a container does not see the shares of gpu mps")
    (told,) = problems(tmp_path, "gpu: mps\nruntime: docker\n")
    assert told.startswith("runtime docker binds MIG devices")


def test_a_jobs_ports_are_published_on_this_machine_alone(tmp_path):
    path = tmp_path / "launcher.yaml"
    path.write_text("jobs: [{name: a, slice: s0, image: i, ports: ['1:2', '0.0.0.0:3:4']}]\n")
    (job,) = config.load(path, {}).jobs
    assert job.published == (("127.0.0.1", 1, 2), ("0.0.0.0", 3, 4))
