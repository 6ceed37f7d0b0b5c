"""The front page stays short; every link, path, module, command, setting and example of a page is real."""

import ast
import dataclasses
import html
import importlib
import inspect
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.calls import PROGRAM, fault_of_call, find_command
from helpers.paths import ROOT
from mambavl.cache import spec
from mambavl.cli.options import FLAGS
from mambavl.cli.settings import NAMES, section
from mambavl.configs import find_recipe, read_toml, set_key, validate
from mambavl.configs.errors import UsageError
from mambavl.configs.settings import settings_of
from mambavl.extract.data_set import DataSet
from mambavl.extract.encoders import base
from mambavl.fuse import fused, fused_record, result
from mambavl.fuse.idle import flatten
from mambavl.fuse.recipe import Recipe

README = ROOT / "README.md"
PAGES = [README, *sorted(ROOT.glob("C*.md")), *sorted((ROOT / "docs").glob("*.md"))]
RENAMED = {"imported": "import", "from_level": "from"}  # fields whose key in spec.json is a word of Python
IN_TREE = re.compile(r"(?:cache|configs|docs|extract|fuse|mambavl|tests|benchmarks|\.ci)/[\w./-]*")
MODULE = re.compile(r"mambavl(?:\.\w+)+")
MAX_LINES, MAX_WORDS, MAX_LINE = 130, 1_500, 300


def parts(text: str) -> Iterator[tuple[str, str]]:
    """("prose", line) and ("fence", line) of a page, the fences themselves left out."""
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        else:
            yield ("fence" if fenced else "prose"), line


def prose(text: str) -> list[str]:
    return [line for kind, line in parts(text) if kind == "prose"]


def fences(text: str) -> list[str]:
    return [line for kind, line in parts(text) if kind == "fence"]


def inline_code(text: str) -> list[str]:
    return [span for line in prose(text) for span in re.findall(r"`([^`]+)`", line)]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = [line.lstrip("#").strip() for line in prose(page.read_text()) if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> list[str]:
    """The targets of a page's links that lead nowhere; addresses on the web are not followed."""
    broken = []
    for line in prose(text):
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", line)):
            path, _, anchor = target.partition("#")
            if "://" in path:
                continue
            found = (page.parent / path).resolve() if path else page
            is_page = found.suffix == ".md" and found.is_file()
            if not found.exists() or (anchor and not (is_page and anchor in anchors(found))):
                broken.append(target)
    return broken


def commands(text: str) -> Iterator[tuple[str, bool]]:
    """Every call of the program on a page, and whether it is shown whole, on a line of its own."""
    for line in fences(text):
        if PROGRAM.match(line):
            yield line, "..." not in line
    for span in inline_code(text):
        if PROGRAM.match(span):
            yield span, False


def unknown_names(text: str) -> list[str]:
    """Paths of this tree and names of this package, in inline code, that do not exist."""
    unknown = []
    for span in inline_code(text):
        if "NAME" in span:
            continue  # a reader's own
        if IN_TREE.fullmatch(span) and not (ROOT / span).exists() and not is_recipe(span):
            unknown.append(span)
        if MODULE.fullmatch(span) and not is_importable(span):
            unknown.append(span)
    return unknown


def is_recipe(name: str) -> bool:
    try:
        find_recipe(name)
    except UsageError:
        return False
    return True


def is_importable(name: str) -> bool:
    """Is it a module, or something that a module of this package holds?"""
    module, _, member = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        try:
            return hasattr(importlib.import_module(module), member)
        except ModuleNotFoundError:
            return False
    return True


def keys_of_settings(name: str) -> set[str]:
    return {setting.key for setting in settings_of(section(name).record)} - FLAGS.keys()


def unknown_settings(text: str) -> list[str]:
    """Keys after `--set` that the command of that line does not have, or where there is none, no command."""
    unknown = []
    for line in text.splitlines():
        if not (keys := re.findall(r"--set '?([a-z_.]+)=", line)):
            continue
        call = re.search(r"mambavl [a-z ]+", line)
        owner = getattr(find_command(call[0].split()[1:])[0], "settings", None) if call else None
        known = set().union(*(keys_of_settings(name) for name in ([owner] if owner else NAMES)))
        unknown += [key for key in keys if re.sub(r"^streams\.\w+\.", "streams.NAME.", key) not in known]
    return unknown


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_the_readme_is_a_front_page():
    text = README.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert len(text.split()) <= MAX_WORDS
    assert max(len(line) for line in prose(text)) <= MAX_LINE


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page):
    assert broken_links(page, page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_exists_with_these_options(page):
    calls = [(line, fault_of_call(line, is_whole)) for line, is_whole in commands(page.read_text())]
    assert [(line, fault) for line, fault in calls if fault] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_path_and_module_exists(page):
    assert unknown_names(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_setting_exists(page):
    assert unknown_settings(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_examples_in_python_parse_and_import_what_there_is(page):
    for block in blocks(page.read_text(), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("mambavl"):
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_examples_of_recipes_are_valid(page):
    """Each is laid over a packaged recipe, since it shows a part; a targets.toml stands for itself."""
    for block in blocks(page.read_text(), "toml"):
        if page.name == "data.md":
            validate(tomllib.loads(block), DataSet, name_of(page))
            continue
        recipe = read_toml(find_recipe("fuse/default"))
        for key, value in flatten(tomllib.loads(block)).items():
            set_key(recipe, key, value)
        validate(recipe, Recipe, name_of(page))


def table_of_records(section: str) -> dict[str, set[str]]:
    """The rows of a table of docs/design.md: part -> its keys."""
    text = (ROOT / "docs" / "design.md").read_text().partition(f"**{section}**")[2].partition("\n**")[0]
    rows = re.findall(r"^\| ([\w. ]+) \| (`.*) \|$", text, re.MULTILINE)
    return {part: set(re.findall(r"`(\w+)`", keys)) for part, keys in rows}


def keys_of(record: type) -> set[str]:
    return {RENAMED.get(field.name, field.name) for field in dataclasses.fields(record)} - {"more"}


def test_design_lists_the_keys_of_a_spec():
    records = {
        "Spec": spec.Spec,
        "recipe": spec.FeatureRecipe,
        "recipe.encoder": spec.EncoderIdentity,
        "recipe.pixels": spec.PixelRecipe,
        "recipe.questions": spec.QuestionsProvenance,
        "recipe.history": spec.HistoryRecipe,
        "recipe.sound": spec.SoundRecipe,
        "recipe.boxes": spec.BoxesRecipe,
        "recipe.pooled": spec.Pooling,
        "inputs": spec.Inputs,
        "inputs.windows": spec.Windows,
    }
    assert table_of_records("Spec") == {part: keys_of(record) for part, record in records.items()}


def test_design_lists_the_keys_of_a_result():
    assert table_of_records("Result") == {
        "Result": keys_of(result.Result),
        "rows": keys_of(result.Rows),
        "params": keys_of(result.Params),
        "trained": keys_of(result.Trained),
        "scored": keys_of(result.Scored),
        "selection": keys_of(result.Selection),
        "fused": keys_of(fused_record.Fused),
        "each of fused.inputs": keys_of(fused_record.FusedInput),
        "each of fused.chosen": keys_of(fused.Choice),
        "environment": keys_of(result.Environment),
        "each of streams": keys_of(result.StreamProvenance) - {"recipe"} | {*result.RECIPE_PARTS},
    }


def members_of(kind: type) -> set[str]:
    """What a class adds to those that it inherits from."""
    inherited = set(dir(kind.__base__)) | inspect.get_annotations(kind.__base__).keys()
    own = vars(kind).keys() | inspect.get_annotations(kind).keys()
    return {name for name in own - inherited if not name.startswith("_")}


def test_design_lists_what_an_encoder_has():
    kinds = (base.Encoder, base.VideoEncoder, base.TextEncoder, base.AudioEncoder)
    assert table_of_records("Encoder") == {kind.__name__: members_of(kind) for kind in kinds}


def test_every_extra_that_a_page_installs_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in PAGES:
        named = ",".join(re.findall(r"'\.\[([\w,]+)\]'", page.read_text()))
        assert set(named.split(",")) - {""} <= extras.keys(), name_of(page)


def test_every_page_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\(([^)#]+)", README.read_text()))
    assert {name_of(page) for page in PAGES if page.parent == ROOT / "docs"} <= linked


def test_the_tree_of_the_readme_is_the_tree():
    named = {line.split("/")[0] for line in fences(README.read_text()) if re.match(r"[a-z]+/ ", line)}
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout, so other folders may lie here")
    folders = {line.split("/")[0] for line in tracked.stdout.splitlines() if "/" in line}
    assert named == {folder for folder in folders if not folder.startswith(".")}


def test_the_test_command_is_the_one_that_ci_runs():
    [pattern] = re.findall(r"grep -oE \"([^\"]+)\" README\.md", (ROOT / ".ci" / "run").read_text())
    assert re.findall(pattern, README.read_text(), re.MULTILINE) == ["pip install -e '.[demo,dev]' && pytest"]


def test_what_leads_nowhere_would_be_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One heading\n")
    (tmp_path / "other.md").write_text("## It is there: `yes`\n")
    good = "[a](#one-heading) [b](other.md) [c](other.md#it-is-there-yes) [d](https://example.org/none)"
    assert broken_links(page, good) == []
    for target in ("none.md", "#none", "other.md#none", "../none/"):
        assert broken_links(page, f"[x]({target})") == [target]
    assert broken_links(page, "`[x](none.md)`\n```\n[y](none.md)\n```\n") == []


def test_a_wrong_command_would_be_seen():
    assert fault_of_call("mambavl train fuse/default --out runs/x  # a comment", True) is None
    assert fault_of_call("accelerate launch -m mambavl train fuse/default", True) is None
    wrong_calls = ["mambavl tran fuse/default", "mambavl train fuse/default --ot x", "mambavl cache verfy S"]
    for wrong in wrong_calls:
        assert fault_of_call(wrong, True)
        assert fault_of_call(wrong, False)
    assert fault_of_call("mambavl extract video --videos V", True)  # other options are missing
    assert fault_of_call("mambavl extract video --videos V", False) is None
    assert unknown_names("`fuse/none.py` `mambavl.fuse.none` `mambavl.fuse.scan.none`")
    assert unknown_settings("`--set train.lrr=1`, `--set streams.video.stor=x`") == [
        "train.lrr",
        "streams.video.stor",
    ]
    assert (
        unknown_settings("`--set train.lr=1`, `--set streams.video.store=x`, `--set 'levels=[\"clip\"]'`")
        == []
    )
    assert unknown_settings("mambavl extract text --set crops=3") == ["crops"]
    assert unknown_settings("mambavl extract video --set crops=3 --set encoder=minilm") == ["encoder"]
    assert not unknown_names("`fuse/scan/` `fuse/default` `mambavl.fuse.scan.selective_scan`")


def test_the_demo_s_report_is_that_of_the_table_beside_it():
    """`benchmarks/demo.py` made it; each row of the table stands in its table of results, and no folder of
    the machine that ran it.
    """
    page = (ROOT / "docs" / "demo.html").read_text(encoding="utf-8")
    shown = page[page.index("Every entry, in percent, with 95 % intervals") :]
    table = (ROOT / "docs" / "results.md").read_text().partition("## The demo\n")[2]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if re.search(r"\d ± \d", line)]
    assert len(rows) == 8
    for title, _, *cells in rows:
        row = html.unescape(shown[shown.index(f"{title}<") :][:4000])
        places = [row.index(f"{cell} (") for cell in cells]
        assert places == sorted(places)
    assert not re.search(r"[^\w.](/tmp|/home|/root|/Users)/", page)
