"""What `--gpu` means."""

import pytest

from launcher import drivers
from launcher.errors import ConfigError
from launcher.profiles import BOARDS


@pytest.mark.parametrize(
    ("gpu", "name"),
    [(None, "nvidia:all"), ("all", "nvidia:all"), ("0,2", "nvidia:0,2"), ("nvidia:1", "nvidia:1"),
     ("GPU-5c89", "nvidia:GPU-5c89")],
)  # fmt: skip
def test_real_gpus_are_named_by_index_or_uuid(gpu, name):
    assert drivers.resolve(gpu) == name


def test_a_host_on_paper_has_any_boards_and_its_own_ways(tmp_path):
    host = drivers.open_host("simulated:2xa30-24gb,t4-16gb?mig=off&driver=535", tmp_path)
    gpus = [driver.gpu() for driver in host.gpus.values()]
    assert [(gpu.index, gpu.has_mig) for gpu in gpus] == [(0, True), (1, True), (2, False)]
    first = next(iter(host.gpus.values()))
    assert first.profiles() == ()
    first.set_mig_mode(True)
    assert len(first.profiles()) == 5
    again = next(iter(drivers.open_host(host.name, tmp_path).gpus.values()))
    assert again.mig_mode() == (True, True)


def test_simulated_alone_is_an_a100_40gb():
    assert drivers.resolve("simulated") == "simulated:a100-40gb"
    assert drivers.resolve("Simulated:H200-141GB") == "simulated:h200-141gb"


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        ("auto", "'auto' is no GPU; write an index"),
        ("0,,1", "is no GPU"),
        ("simulated:t4", "no simulated board 't4'; known: a100-40gb"),
        ("simulated:17xa30-24gb", "17 simulated GPUs; 1 to 16"),
        ("simulated:a30-24gb?mig=maybe", "no option 'mig=maybe'.* mig=on|off"),
    ],
)
def test_anything_else_says_what_is_possible_now(gpu, words):
    with pytest.raises(ConfigError, match=words):
        drivers.resolve(gpu)


@pytest.mark.parametrize("board", BOARDS)
def test_every_board_opens_and_says_that_it_is_simulated(board, tmp_path):
    (driver,) = drivers.open_host(f"simulated:{board}", tmp_path).gpus.values()
    gpu = driver.gpu()
    assert gpu.simulated
    assert "(simulated)" in gpu.name
    assert list(tmp_path.iterdir()) == []
