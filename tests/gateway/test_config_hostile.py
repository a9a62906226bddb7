"""Configuration files that nobody writes by mistake: each is refused, soon, in a few words."""

import os
from pathlib import Path

import pytest

from gateway.config import FILE_BYTES_MAX, ConfigError, load, parse

LAUGHS = "a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS + "listen: *i", "says more than 100000 things, what aliases repeat included"),
        ("listen: &a [*a]", "not YAML: an alias stands for what it is a part of"),
        ("tls: &a {cert: *a}", "not YAML: an alias stands for what it is a part of"),
        ("workers: " + "9" * 10_000, "not YAML: Exceeds the limit"),
        ("state_file: 2025-99-99", "not YAML: month must be in 1..12"),
        ("[" * 200_000, "not YAML: maximum recursion depth exceeded"),
        ("a: !!python/object/apply:os.system [id]", "line 1, column 4: could not determine"),
        ("\0", "not YAML: unacceptable character"),
    ],
    ids=["laughs", "list in itself", "map in itself", "digits", "date", "deep", "code", "nul"],
)
def test_it_is_refused_with_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(text, "g.yaml")
    [error] = raised.value.errors
    assert error.startswith(f"g.yaml: {said}")
    assert len(error) < 500


def test_an_alias_that_is_used_as_it_is_meant_is_fine() -> None:
    text = 'inventory: x\ntls: &t {cert: c, key: k}\nadmin: {listen: "127.0.0.1:1", tls: *t}'
    config = parse(text, "g.yaml")
    assert config.admin.tls == config.tls


@pytest.mark.parametrize("again", [False, True])
def test_a_file_without_an_end_is_not_read_to_it(tmp_path: Path, again: bool) -> None:
    path = tmp_path / "g.yaml"
    path.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match=r"larger than|no regular file"):
        load(path, again=again)
    path.unlink()
    path.write_bytes(b"#" * (FILE_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="larger than 4194304 bytes"):
        load(path, again=again)


def test_a_pipe_is_read_once_and_not_again(tmp_path: Path) -> None:
    """`mig-gateway check --config <(…)` is fine; a reload must not wait for somebody to write."""
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, b"inventory: x\n")
        os.close(write_end)
        assert load(Path(f"/dev/fd/{read_end}")).inventory == Path("x")
    finally:
        os.close(read_end)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="cannot be read: it is no regular file"):
        load(tmp_path / "pipe", again=True)
