"""Every seed of the fuzzers, and every input that once broke something, with the other tests."""

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

SEEDS = Path(__file__).parent / "seeds"
FILES = sorted(path for path in SEEDS.glob("*/*"))


def test_every_target_has_seeds_and_no_seed_is_without_target():
    assert {path.parent.name for path in FILES} == set(TARGETS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_seed_breaks_nothing(path):
    TARGETS[path.parent.name](path.read_bytes())
