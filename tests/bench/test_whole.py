"""`make bench` puts its tables where the document has a place for them."""

from pathlib import Path

import pytest

from bench import __main__ as whole

DOCUMENT = Path(__file__).parents[2] / whole.DOCUMENT


def test_each_table_takes_the_place_of_the_one_before_it():
    document = "# T\n<!-- idle -->\nold\n<!-- end of idle -->\ntext\n"
    once = whole.put_in(document, {"idle": "| new |\n"})
    assert once == "# T\n<!-- idle -->\n\n| new |\n\n<!-- end of idle -->\ntext\n"
    assert whole.put_in(once, {"idle": "| new |\n"}) == once


def test_the_document_has_a_place_for_every_part():
    tables = {name: f"table of {name}" for name in whole.PARTS}
    written = whole.put_in(DOCUMENT.read_text(), tables)
    assert all(table in written for table in tables.values())


def test_a_document_without_a_place_is_refused():
    with pytest.raises(ValueError, match="no place marked 'idle'"):
        whole.put_in("# T\n", {"idle": "x"})


def test_an_unknown_part_is_named(capsys):
    with pytest.raises(SystemExit, match="2"):
        whole.main(["--parts", "idle,nothing"])
    assert "there is no 'nothing'; known: compare,idle,tail" in capsys.readouterr().err
