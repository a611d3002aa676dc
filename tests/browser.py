"""A headless Chromium for tests, or a reason why there is none."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]
NEED = "DIFFACET_NEED_BROWSER"


def missing(why: str) -> None:
    """Skip the test, or fail it where a browser is said to be needed."""
    if os.environ.get(NEED) == "1":
        pytest.fail(f"{why}, and {NEED}=1 says that it is needed")
    pytest.skip(f"{why}; pages are not tested")


def find() -> str | None:
    """Where Chromium is."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextlib.contextmanager
def opened() -> Iterator[Any]:
    """Playwright's browser, closed at the end."""
    try:
        from playwright import sync_api
    except ModuleNotFoundError:
        missing("Playwright is not installed (pip install playwright)")
    path = find()
    if path is None:
        missing(f"there is no Chromium here (none of {', '.join(NAMES)} is on the PATH)")
    with sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield chromium
        finally:
            chromium.close()
