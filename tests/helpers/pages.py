"""What stands in a page of HTML, read by Python's own parser."""

from html.parser import HTMLParser


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.name = ""
        self.is_cell = False
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if "data-table" in given:
            self.name = str(given["data-table"])
            self.tables[self.name] = []
        elif tag == "tr" and self.name:
            self.tables[self.name].append([])
        elif tag in ("th", "td") and self.name:
            self.is_cell = True
            self.tables[self.name][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.name = ""
        elif tag in ("th", "td"):
            self.is_cell = False

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.is_cell:
            self.tables[self.name][-1][-1] += data


def tables_of(page: str) -> dict[str, list[list[str]]]:
    """The report's tables by name: their header, then their rows."""
    reader = _Reader()
    reader.feed(page)
    return reader.tables


def column_of(table: list[list[str]], label: str) -> list[str]:
    place = table[0].index(label)
    return [row[place] for row in table[1:]]


def text_of(page: str) -> str:
    """All that is no tag, in one line."""
    reader = _Reader()
    reader.feed(page)
    return " ".join(" ".join(reader.text).split())
