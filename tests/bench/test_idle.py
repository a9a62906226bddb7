"""Memory with idle connections."""

from bench import idle

MIB = 1024 * 1024


def test_a_line_says_what_each_connection_costs():
    found = idle.Figures("gateway", "HTTP/2", 20 * MIB, 21 * MIB, 1024)
    assert found.per_connection == 1024
    assert "| gateway | 1,024 idle, HTTP/2 | 20.0 | 21.0 | 1.0 |" in idle.markdown([found])


def test_more_connections_than_files_allowed_is_refused_before_anything_starts(capsys):
    assert idle.main(["--connections", "1000000000"]) == 2
    assert "needs 2000000100 open files" in capsys.readouterr().err
