"""The sign of a state folder is made once, whoever asks first."""

from concurrent.futures import ThreadPoolExecutor

from launcher.owner import FILE, sign_of


def test_it_is_the_folders_own_and_stays(tmp_path):
    first = sign_of(tmp_path / "a")
    assert sign_of(tmp_path / "a") == first != sign_of(tmp_path / "b")
    assert [entry.name for entry in (tmp_path / "a").iterdir()] == [FILE]


def test_who_asks_at_the_same_time_is_told_the_same(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: sign_of(tmp_path), range(64)))) == 1
