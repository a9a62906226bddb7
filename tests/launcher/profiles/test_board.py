"""Board tables keep what is true of every board, and the numbers that NVIDIA publishes."""

import pytest

from launcher.profiles import BOARDS, compute_profiles


@pytest.fixture(params=BOARDS.values(), ids=BOARDS)
def board(request):
    return request.param


def test_placements_lie_on_the_grid_and_are_aligned(board):
    for entry in board.profiles:
        for at in entry.placements:
            assert at.end <= board.memory_slices
            assert at.start % at.size == 0


def test_no_profile_is_allowed_more_often_than_it_fits(board):
    for entry in board.profiles:
        assert 1 <= entry.profile.instances_max <= len(entry.placements)
        assert entry.profile.instances_max * entry.profile.compute_slices <= board.compute_slices


def test_indexes_ascend_and_ids_are_other_numbers(board):
    indexes = [entry.profile.index for entry in board.profiles]
    ids = [entry.profile.id for entry in board.profiles]
    assert indexes == sorted(set(indexes))
    assert len(ids) == len(set(ids))
    assert not board.profiles or indexes != ids


def test_a_compute_profile_takes_the_whole_of_every_gpu_instance(board):
    for entry in board.profiles:
        inside = compute_profiles(entry.profile)
        assert [p.name for p in inside if p.compute_slices == entry.profile.compute_slices] == [
            entry.profile.name
        ]


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("a100-40gb", "1g.5gb 2g.10gb 3g.20gb 4g.20gb 7g.40gb 1g.5gb+me 1g.10gb"),
        ("a100-80gb", "1g.10gb 2g.20gb 3g.40gb 4g.40gb 7g.80gb 1g.10gb+me 1g.20gb"),
        ("a30-24gb", "1g.6gb 2g.12gb 4g.24gb 1g.6gb+me 2g.12gb+me"),
        ("h100-80gb", "1g.10gb 2g.20gb 3g.40gb 4g.40gb 7g.80gb 1g.10gb+me 1g.20gb"),
        ("h100-94gb", "1g.12gb 2g.24gb 3g.47gb 4g.47gb 7g.94gb 1g.12gb+me 1g.24gb"),
        ("h200-141gb", "1g.18gb 2g.35gb 3g.71gb 4g.71gb 7g.141gb 1g.18gb+me 1g.35gb"),
    ],
)
def test_profiles_are_named_as_nvidia_smi_names_them(key, names):
    assert [entry.profile.name for entry in BOARDS[key].profiles] == names.split()


def test_compute_instances_inside_each_size():
    """`nvidia-smi mig -lcip` on A100: id and how many of each."""
    listed = {
        entry.profile.name: [
            (p.id, p.name, p.instances_max) for p in compute_profiles(entry.profile)
        ]
        for entry in BOARDS["a100-40gb"].profiles
    }
    assert listed["1g.5gb"] == [(0, "1g.5gb", 1)]
    assert listed["1g.10gb"] == [(7, "1g.10gb", 1)]
    assert listed["2g.10gb"] == [(0, "1c.2g.10gb", 2), (1, "2g.10gb", 1)]
    assert [entry[0] for entry in listed["3g.20gb"]] == [0, 1, 2]
    assert listed["4g.20gb"] == [(0, "1c.4g.20gb", 4), (1, "2c.4g.20gb", 2), (3, "4g.20gb", 1)]
    assert [(entry[0], entry[2]) for entry in listed["7g.40gb"]] == [
        (0, 7), (1, 3), (2, 2), (3, 1), (4, 1),
    ]  # fmt: skip
