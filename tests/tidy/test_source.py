"""Rules of the source that no linter knows; a broken one is named with its place."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from gateway import errors
from gateway.errors import Fault
from gateway.limits import Limits, Timeouts

ROOT = Path(__file__).parents[2]
PACKAGES = ("contract", "gateway", "launcher", "tools", "bench")
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
EVENT_NAME = re.compile(r"[a-z0-9_]+\.[a-z0-9_]+")
MAY_AWAIT = {"dial.py", "listener.py"}


def modules(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_no_module_is_longer_than_a_person_reads() -> None:
    long = [p for p in modules(*PACKAGES) if len(p.read_text().splitlines()) > MODULE_LINES_MAX]
    assert long == [], f"split these: more than {MODULE_LINES_MAX} lines"


def test_no_function_is_longer_than_a_screen() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
        for path in modules(*PACKAGES)
        for function in functions(path)
        if (function.end_lineno or 0) - function.lineno >= FUNCTION_LINES_MAX
    ]
    assert long == []


def test_the_data_plane_awaits_nothing() -> None:
    waiting = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules("gateway/relay")
        if path.name not in MAY_AWAIT
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.AsyncFunctionDef | ast.Await)
    ]
    assert waiting == [], "a request makes no task: move this to dial.py or to control/"


def test_log_events_are_named_noun_and_verb() -> None:
    wrong = []
    for path in modules("contract", "gateway", "launcher"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "log"
                and node.func.attr in ("debug", "info", "warning", "error", "exception")
                and node.args
                and not (
                    isinstance(node.args[0], ast.Constant)
                    and isinstance(node.args[0].value, str)
                    and EVENT_NAME.fullmatch(node.args[0].value)
                )
            ):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == [], "an event is named like slice.ejected, with typed fields"


@pytest.fixture(scope="module")
def operating() -> str:
    return (ROOT / "docs" / "operating.md").read_text()


def test_every_limit_and_timeout_is_documented(operating: str) -> None:
    keys = [f.name for f in fields(Limits)] + [f.name.removesuffix("_s") for f in fields(Timeouts)]
    assert [key for key in keys if f"`{key}`" not in operating] == []


def test_every_fault_is_documented_with_its_statuses(operating: str) -> None:
    missing = [
        fault.code
        for fault in vars(errors).values()
        if isinstance(fault, Fault) and f"| `{fault.code}` | {fault.http_status} |" not in operating
    ]
    assert missing == []


def test_documents_link_to_files_that_exist() -> None:
    broken = []
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")]:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", document.read_text()):
            if not (document.parent / target).exists():
                broken.append(f"{document.relative_to(ROOT)}: {target}")
    assert broken == []
