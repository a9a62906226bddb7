"""Who may reach what is never left open by mistake."""

from pathlib import Path

import pytest

from contract.slice_spec import Endpoint
from gateway.config import parse
from gateway.config_security import UnixSocket, is_loopback
from gateway.tls import TlsFiles
from tests.gateway.test_config import errors

TOKEN = "tokens: [{name: ops, file: /t, role: write}]"
CLIENTS = "tls: {cert: /c, key: /k, client_ca: /ca}"


@pytest.mark.parametrize("listen", ["0.0.0.0:9001", "[::]:9001", "10.0.0.1:9001", "gpu7:9001"])
def test_an_address_that_others_reach_needs_something_that_asks_who_calls(listen: str) -> None:
    [error] = errors(f'inventory: x\nadmin: {{listen: "{listen}"}}')
    assert error == (
        f"admin.listen is {listen!r}, which other machines may reach, and nothing asks who calls: "
        "give admin.tokens or admin.tls.client_ca, or listen on 127.0.0.1"
    )
    assert len(errors(f'inventory: x\nadmin: {{listen: "{listen}", tls: {{cert: /c, key: /k}}}}'))
    for guard in (TOKEN, CLIENTS):
        parse(f'inventory: x\nadmin: {{listen: "{listen}", {guard}}}', "g.yaml")


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1", "unix:/run/a.sock"]
)
def test_an_address_of_this_machine_needs_nothing(listen: str) -> None:
    parse(f'inventory: x\nadmin: {{listen: "{listen}"}}', "g.yaml")


def test_loopback_is_an_address_and_not_a_name_that_looks_like_one() -> None:
    assert not is_loopback("127.0.0.1.example.org")
    assert not is_loopback("")


def test_tokens_in_plain_text_over_a_network_are_warned_about() -> None:
    config = parse(f'inventory: x\nadmin: {{listen: "0.0.0.0:9001", {TOKEN}}}', "g.yaml")
    assert "sees the tokens" in config.warnings[0]
    config = parse(f'inventory: x\nadmin: {{listen: "0.0.0.0:9001", {CLIENTS}}}', "g.yaml")
    assert config.warnings == []


def test_a_socket_in_the_file_system() -> None:
    config = parse('inventory: x\nadmin: {listen: "unix:run/admin.sock"}', "g.yaml")
    assert config.admin.listen == UnixSocket(Path("run/admin.sock"))
    assert str(config.admin.listen) == "unix:run/admin.sock"
    for wrong in ("unix:", "unix:" + "a" * 108):
        [error] = errors(f'inventory: x\nadmin: {{listen: "{wrong}"}}')
        assert "behind unix: stands the path of a file" in error


def test_tls_of_both_ports() -> None:
    config = parse(
        "inventory: x\ntls: {cert: c, key: k, min_version: 1.3}\n"
        "admin: {tls: {cert: a, key: b, client_ca: d}}",
        "g.yaml",
    )
    assert config.tls is not None
    assert config.tls.files == TlsFiles(Path("c"), Path("k"), None, "1.3")
    assert config.admin.tls is not None
    assert config.admin.tls.files == TlsFiles(Path("a"), Path("b"), Path("d"), "1.2")
    assert config.admin.listen == Endpoint("127.0.0.1", 9001)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("tls: {cert: c}", "tls.key is missing"),
        ("tls: {cert: c, key: k, min_version: 1.1}",
         "tls.min_version: 1.1 is no version of TLS; known versions: 1.2, 1.3"),
        ("tls: {cert: c, key: k, ca: x}", "tls.ca is no known key; "),
        ("tls: 1", "tls is 1; allowed is a mapping"),
        ("admin: {tokens: [{name: a, role: write}]}",
         "admin.tokens[0]: give the token's place, either file or env"),
        ("admin: {tokens: [{name: a, role: write, file: f, env: E}]}",
         "admin.tokens[0]: give the token's place, either file or env"),
        ("admin: {tokens: [{name: a, role: root, file: f}]}",
         "admin.tokens[0].role: 'root' is no role; known roles: read, write"),
        ("admin: {tokens: [{name: a, file: f}]}", "admin.tokens[0].role is missing"),
        ("admin: {tokens: [{name: 'a b', role: read, file: f}]}",
         "admin.tokens[0].name: 'a b' is no name"),
        ("admin: {tokens: [{name: a, role: read, env: 'A-B'}]}",
         "admin.tokens[0].env: 'A-B' is no name of an environment variable"),
        ("admin: {tokens: [{name: a, role: read, token: abc}]}",
         "admin.tokens[0].token is no known key; "),
        ("admin: {tokens: [{name: a, role: read, env: A}, {name: a, role: read, env: B}]}",
         "admin.tokens[1].name is 'a', and so is admin.tokens[0].name"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(text: str, error: str) -> None:
    found = errors(text + "\ninventory: x")
    assert any(one.startswith(error) for one in found), found
