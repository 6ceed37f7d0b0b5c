"""The audit as one self-contained HTML page."""

from importlib import resources
from pathlib import Path
from typing import Any

from mambavl.extract.questions.audit import guessers
from mambavl.extract.questions.audit_rows import TARGETS, Share
from mambavl.extract.questions.probes import LEAST_ROWS, MANY

NAME_LENGTH = 16  # characters of a file's name that a bar shows


def write_page(found: dict[str, Any], target: Path) -> None:
    """Write what `audit` found as a page that needs nothing from outside."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    source = resources.files("mambavl.extract.questions").joinpath("audit.html.j2")
    template = environment.from_string(source.read_text(encoding="utf-8"))
    rows = guessers(found)
    charts = {target: _bars(rows, target) for target in TARGETS} if rows else {}
    page = template.render(
        found=found, rows=rows, charts=charts, targets=TARGETS, least=LEAST_ROWS, many=MANY
    )
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(page, encoding="utf-8")


def _bars(rows: list[dict[str, Any]], target: str) -> list[tuple[str, str, Share]]:
    """(name, kind, share) of a chart's bars; a prior that several files share stands there once."""
    bars: list[tuple[str, str, Share]] = []
    for row in rows:
        share = row["top1"][target]
        if row["kind"] != "prior":
            name = Path(row["path"]).stem[:NAME_LENGTH]
            bars.append((f"{name}: {row['name']}", row["kind"], share))
        elif ("prior", "prior", share) not in bars:
            bars.append(("prior", "prior", share))
    return bars
