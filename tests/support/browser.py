"""A real browser for tests: the machine's Chromium, without a screen."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# The second line keeps it from calling its makers, which a test machine may not reach.
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-quic", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip


def program() -> str:
    """Return the path of a browser; fail, and say what to do, where there is none."""
    for name in filter(None, (os.environ.get("CHROMIUM"), *NAMES)):
        found = shutil.which(name)
        if found:
            return found
    pytest.fail(
        "the pages are tested in Chromium, and there is none: `apt-get install chromium`, or set "
        "CHROMIUM to a browser of its kind, or leave these tests out with -m 'not browser'",
        pytrace=False,
    )


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser for as long as the block runs."""
    path = program()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser, url: str, *, width: int = 1400, dark: bool = False, quiet: bool = True
) -> Iterator[Page]:
    """
    A page at `url`.

    Args:
        quiet: Fail in the end when the page has written an error or a warning to its console.
    """
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
    )
    said: list[str] = []
    page = context.new_page()
    page.on(
        "console",
        lambda message: said.append(message.text) if message.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: said.append(str(error)))
    try:
        page.goto(url)
        yield page
        assert not quiet or not said, f"the page wrote to its console: {said}"
    finally:
        context.close()
