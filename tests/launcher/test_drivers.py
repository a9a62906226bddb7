"""What `--gpu` means."""

import pytest

from launcher import drivers
from launcher.errors import ConfigError
from launcher.profiles import BOARDS


def test_simulated_alone_is_an_a100_40gb():
    assert drivers.resolve("simulated") == "simulated:a100-40gb"
    assert drivers.resolve("Simulated:H200-141GB") == "simulated:h200-141gb"


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        (None, "none chosen. Cutting real GPUs is not supported yet"),
        ("0", "'0' is not supported yet; what there is now: simulated:BOARD"),
        ("auto", "a GPU on paper"),
        ("simulated:t4", "no simulated board 't4'; known: a100-40gb"),
    ],
)
def test_anything_else_says_what_is_possible_now(gpu, words):
    with pytest.raises(ConfigError, match=words):
        drivers.resolve(gpu)


@pytest.mark.parametrize("board", BOARDS)
def test_every_board_opens_and_says_that_it_is_simulated(board, tmp_path):
    gpu = drivers.open_driver(f"simulated:{board}", tmp_path).gpu()
    assert gpu.simulated
    assert "(simulated)" in gpu.name
    assert list(tmp_path.iterdir()) == []
