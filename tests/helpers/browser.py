"""Pages in a real browser, without a screen: what they ask for, and what they complain about."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """MAMBAVL_CHROMIUM, else a Chromium or Chrome on PATH."""
    named = os.environ.get("MAMBAVL_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


def why_no_browser() -> str:
    """Why no page can be opened here; empty where one can."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "needs the package playwright (the `dev` extra)"
    return "" if find_chromium() else "needs Chromium on PATH, or MAMBAVL_CHROMIUM=PATH"


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of its own (playwright's `Browser`)."""
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=find_chromium(), args=arguments)
        yield found
        found.close()


@dataclass
class Opened:
    """A page (playwright's `Page`) and what came of opening it."""

    page: Any
    requests: list[str] = field(default_factory=list)  # but for the file itself, and what is in it
    errors: list[str] = field(default_factory=list)  # of the console, and exceptions that nobody caught


def open_page(
    browser: Any, path: Path, address: str = "", *, width: int = 1000, height: int = 800, **context: Any
) -> Opened:
    """Open a file as a reader would, from disk. address: what follows the file's name, such as `#row`.
    context: of playwright's `new_context`, such as color_scheme="dark".
    """
    page = browser.new_context(viewport={"width": width, "height": height}, **context).new_page()
    opened, own = Opened(page), path.absolute().as_uri()

    def note(request: Any) -> None:
        if request.url.partition("#")[0] != own and not request.url.startswith(("data:", "blob:")):
            opened.requests.append(request.url)

    page.on("request", note)
    page.on("console", lambda said: opened.errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    page.goto(own + address)
    return opened


def wait_for_rows(opened: Opened) -> None:
    """Until the page has unpacked its rows."""
    opened.page.wait_for_selector("#rows[data-state=ready]")
