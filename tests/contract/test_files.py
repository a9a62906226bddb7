"""A reader sees the old content or the new, never a part."""

import os
import stat

import pytest

from contract.files import read_whole, write_atomically


def test_folder_and_file_are_made_and_readable_by_all(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write_atomically(path, "one\n")
    write_atomically(path, "two\n")
    assert path.read_text() == "two\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(path.parent) == ["file"]


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_is_read_whole_or_seen_to_be_larger(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_whole(path, 5) == b"12345"
    assert read_whole(path, 3) == b"1234"


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "nothing"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path, kind):
    """Nobody ever writes to the pipe, and the device has no end."""
    path = tmp_path / "file"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    said = {"folder": "Is a directory", "nothing": "No such file or directory"}
    with pytest.raises(OSError, match=said.get(kind, "it is no regular file")):
        read_whole(path, 1000)
    assert len(os.listdir("/proc/self/fd")) == before
