"""What does the demo's report look like? The page and the picture that the docs show.

    python benchmarks/demo.py [--docs docs] [--out FILE]

Runs `mambavl demo` in a fresh folder, a few minutes on two cores, and writes DOCS/demo.html, the report as it
came, and DOCS/figures/report.png, the top of it in Chromium without a screen; MAMBAVL_CHROMIUM names another
browser than the one on PATH. Needs the extras `demo` and `dev`. The last line is JSON: the page's megabytes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import ROOT, Harness, options

WIDTH, HEIGHT = 1000, 1100  # of the picture
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where page and picture go")
    arguments = parser.parse_args()
    harness, docs = Harness(arguments, "torch"), arguments.docs
    program = os.environ.get("MAMBAVL_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        raise SystemExit("no Chromium on PATH; install one, or name it with MAMBAVL_CHROMIUM")
    page, picture = docs / "demo.html", docs / "figures" / "report.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mambavl", "demo", "--out", "demo"]
        subprocess.run(command, cwd=folder, check=True)
        found = Path(folder, "demo", "report.html").read_text(encoding="utf-8")
        page.write_text(found.replace(f"{folder}/", ""), encoding="utf-8")  # stores are named by whole paths
    take_picture(program, page, picture)
    figures = {"megabytes": round(page.stat().st_size / 1e6, 2)}
    harness.end(figures, figures)


def take_picture(program: str, page: Path, picture: Path) -> None:
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=arguments)
        opened = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        opened.goto(page.absolute().as_uri())
        opened.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main()
