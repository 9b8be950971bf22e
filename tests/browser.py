"""A Chromium for tests of pages, required or skipped as `tests.needs` says."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from tests.needs import need

need("browser", find_spec("playwright"), "the extra `test` brings playwright")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
need("browser", BROWSER, "no Chromium is installed")

from playwright.sync_api import Error, sync_playwright  # noqa: E402

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


@contextmanager
def launched() -> Iterator[Any]:
    """The browser, without a window."""
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        except Error as error:
            need("browser", None, f"{BROWSER} does not start: {error}")
        yield browser
        browser.close()
