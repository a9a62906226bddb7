"""Who calls, and what that caller may do."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from contract import logs
from gateway.config_security import TokenSection
from gateway.control import audit
from gateway.control.auth import Access, Caller, checked, common_name, load, read_token

WRITER, READER = "w" * 20, "r" * 20


@pytest.fixture
def access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Access:
    (tmp_path / "ops").write_text(f"{WRITER}\n")
    monkeypatch.setenv("PROM_TOKEN", READER)
    found, errors = load(
        [
            TokenSection(name="ops", file=tmp_path / "ops", role="write"),
            TokenSection(name="prometheus", env="PROM_TOKEN", role="read"),
        ]
    )
    assert errors == []
    return found


def test_a_token_says_who_calls_and_whether_he_may_change_things(access: Access) -> None:
    ops = Caller("ops", "token", "10.0.0.1", may_write=True)
    assert access.caller(f"Bearer {WRITER}", None, "10.0.0.1") == ops
    assert access.caller(f"bearer   {WRITER} ", None, "10.0.0.1") == ops
    assert str(ops) == "ops (token) at 10.0.0.1"
    prometheus = access.caller(f"Bearer {READER}", None, "10.0.0.1")
    assert prometheus == Caller("prometheus", "token", "10.0.0.1", may_write=False)


@pytest.mark.parametrize(
    "shown",
    ["", "Bearer", "Bearer ", WRITER, f"Basic {WRITER}", f"Bearer {WRITER}x", "Bearer \udcff",
     f"Bearer {WRITER[:-1]}", f"Bearer {WRITER} {READER}"],
)  # fmt: skip
def test_whoever_shows_none_of_them_is_nobody(access: Access, shown: str) -> None:
    assert access.caller(shown, None, "10.0.0.1") is None


def test_a_certificate_does_not_stand_in_for_a_token(access: Access) -> None:
    assert access.caller("", {"subject": ((("commonName", "ops"),),)}, "10.0.0.1") is None


def test_without_tokens_a_certificate_names_the_caller_and_else_the_address_does() -> None:
    certificate = {"subject": ((("commonName", "laptop"),),)}
    by_certificate = Access().caller("", certificate, "10.0.0.1")
    assert by_certificate == Caller("laptop", "certificate", "10.0.0.1", may_write=True)
    anybody = Access().caller("Bearer x", None, "127.0.0.1")
    assert anybody == Caller("anybody", "address", "127.0.0.1", may_write=True)


def test_a_certificate_without_a_common_name_is_named_by_what_it_has() -> None:
    assert common_name({"subject": ((("organizationName", "org"),),)}) == "organizationName=org"
    assert common_name({}) == "a certificate without a subject"
    assert len(common_name({"subject": ((("commonName", "a" * 500),),)})) == 80


def test_the_tokens_themselves_are_not_kept(access: Access) -> None:
    assert WRITER not in repr(access)


@pytest.mark.parametrize(
    ("text", "error"),
    [("", "has 0 characters"), ("short", "has 5 characters; allowed are 16 to 4096"),
     ("a" * 4097, "has 4097 characters"), ("two words of length", "printable ASCII"),
     ("one line\nand another", "printable ASCII"), ("\N{LATIN SMALL LETTER A WITH ACUTE}" * 20,
     "printable ASCII")],
)  # fmt: skip
def test_what_is_no_token_is_refused(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=error) as raised:
        checked(text, "the file")
    assert "the file" in str(raised.value)
    assert not text or text not in str(raised.value), "an error is logged; a token must not be"


def test_a_file_larger_than_any_token_is_not_read_whole(tmp_path: Path) -> None:
    (tmp_path / "zeros").write_bytes(b"0" * 1_000_000)
    with pytest.raises(ValueError, match="has 4160 characters"):
        read_token(tmp_path / "zeros")


def test_all_tokens_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "one").write_text(WRITER)
    sections = [
        TokenSection(name="a", file=tmp_path / "missing", role="read"),
        TokenSection(name="b", env="NOT_SET_ANYWHERE", role="read"),
        TokenSection(name="c", file=tmp_path / "one", role="read"),
        TokenSection(name="d", file=tmp_path / "one", role="write"),
    ]
    assert load(sections)[1] == [
        f"admin.tokens[0].file: {tmp_path}/missing cannot be read: No such file or directory",
        "admin.tokens[1].env: the environment variable NOT_SET_ANYWHERE is not set",
        "admin.tokens[3] is the same token as admin.tokens[2]",
    ]


# --- the audit log ----------------------------------------------------------------------------

OPS = Caller("ops", "token", "10.0.0.1", may_write=True)


def test_a_change_is_one_event_with_who_what_before_and_after() -> None:
    with capture_logs() as found:
        audit.changed(OPS, "slices.s3.order", "enabled", "disabled")
        audit.changed(OPS, "slices.s3.order", "disabled", "disabled")
    assert found == [
        {
            "event": "admin.changed", "log_level": "info", "who": "ops", "how": "token",
            "address": "10.0.0.1", "what": "slices.s3.order", "before": "enabled",
            "after": "disabled",
        }
    ]  # fmt: skip


def test_changes_are_logged_whatever_the_level_of_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import structlog

    logs.configure("error", "json")
    try:
        audit.changed(OPS, "balancing.policy", "least_load", "round_robin")
    finally:
        structlog.reset_defaults()
    assert '"event": "admin.changed"' in capsys.readouterr().err


def test_calls_that_are_turned_away_are_logged_in_sum() -> None:
    refusals = audit.Refusals()
    with capture_logs() as found:
        for now_s in (0.0, 1.0, 2.0, 11.0):
            refusals.refused(401, "no token", "10.0.0.1", now_s)
    assert [line["calls"] for line in found] == [1, 3]
