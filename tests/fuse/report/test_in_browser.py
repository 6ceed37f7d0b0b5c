"""The report as a reader opens it: from disk, in Chromium, by mouse and keys, on narrow screens and paper."""

import itertools
import shutil

import pytest

from helpers.browser import open_page
from helpers.tiny import ROWS, make_dense_store, tiny_recipe
from mambavl.cache.classes import verb_noun_classes
from mambavl.fuse import report
from mambavl.fuse.train import train

pytestmark = pytest.mark.browser
NASTY = (
    "<script>alert(1)</script>",
    '</script><img src=x onerror="alert(2)">',
    "\u202eright to left\u2066",
    "x" * 300,
    "=cmd|'/c calc'!A1 & 100% _#$",
    "\"quoted\" 'twice' --> <!--",
    "עברית",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A page of four entries, whose titles and classes are hostile, and its tables' folder."""
    folder = tmp_path_factory.mktemp("nasty")
    classes = verb_noun_classes(
        dict(enumerate(NASTY[:3])), dict(enumerate(NASTY[3:])), num_verbs=3, num_nouns=4, tail_verbs=(2,)
    )
    make_dense_store(folder / "video.zarr", ROWS, classes=classes)
    runs = []
    for number, title in enumerate(NASTY[:4]):
        recipe = tiny_recipe(folder, text=False, title=title, lr=10.0 ** -(1 + number), epochs=2)
        runs.append(train(recipe, folder / f"run {number} <b>'\"").title and folder / f"run {number} <b>'\"")
    (folder / "summary.json").write_text(
        '[{"run": "<img src=x onerror=alert(3)>", "values": {}, "error": "</script>"}]'
    )
    report.write_report([*runs, folder / "summary.json"], folder / "r.html", tables=folder / "tables")
    return folder


@pytest.fixture
def opened(browser, made):
    found = open_page(browser, made / "r.html")
    yield found
    found.page.context.close()
    assert found.errors == []
    assert found.requests == []


def cells(page, table, column):
    """Texts of the rows that are shown."""
    script = """([name, at]) => [...document.querySelectorAll(`[data-table="${name}"] tbody tr`)]
        .filter((row) => row.offsetParent !== null).map((row) => row.cells[at].textContent)"""
    return page.evaluate(script, [table, column])


def head_of(page, table, at):
    return page.locator(f'[data-table="{table}"] thead th').nth(at)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1000, 1600])
def test_the_page_never_scrolls_sideways_and_loses_nothing(browser, made, width, scheme):
    """What is wider than its place scrolls in a box of its own, which the keyboard reaches."""
    found = open_page(browser, made / "r.html", width=width, color_scheme=scheme)
    page = found.page
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    hidden = page.evaluate("""() => [...document.querySelectorAll('main *')].filter((one) => {
        const box = one.getBoundingClientRect();
        return box.width && box.right > innerWidth + 1 && !one.closest('.scroll, figure, pre, select');
    }).map((one) => one.outerHTML.slice(0, 80))""")
    assert hidden == []
    assert page.evaluate("[...document.querySelectorAll('.scroll')].every((one) => one.tabIndex === 0)")
    assert (found.errors, found.requests) == ([], [])
    page.context.close()


@pytest.mark.parametrize("name", ["headline", "measures"])
def test_on_a_wide_screen_the_main_tables_need_no_scrolling(browser, page, name):
    folder, _ = page
    found = open_page(browser, folder / "report.html", width=1600)
    fits = "(one) => one.scrollWidth <= one.clientWidth"
    assert found.page.locator(f'[data-table="{name}"] .scroll').evaluate(fits)
    found.page.context.close()


def test_nothing_hostile_runs_or_becomes_a_tag(opened):
    page = opened.page
    tags = "main img, [onerror], main script:not(#rows *), svg script"
    assert page.locator(tags).count() == 0
    assert NASTY[0] in page.evaluate("document.querySelector('[data-table=headline] tbody').textContent")
    page.evaluate("document.getElementById('rows').remove()")  # names in its lists are each on its own
    assert "\u202e" not in page.content()


def test_a_click_sorts_and_another_turns_it(opened):
    page = opened.page
    before = [float(one.replace(",", "")) for one in cells(page, "classes-verb", 1)]
    head = head_of(page, "classes-verb", 1)
    assert head.get_attribute("aria-sort") is None
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(one) for one in cells(page, "classes-verb", 1)] == sorted(before, reverse=True)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(one) for one in cells(page, "classes-verb", 1)] == sorted(before)
    name = head_of(page, "classes-verb", 0)
    name.locator("button").press("Enter")
    assert name.get_attribute("aria-sort") == "ascending"
    assert head.get_attribute("aria-sort") is None


def test_numbers_are_sorted_as_numbers_and_dashes_stay_last(opened):
    script = """() => {
        const table = page.make('table', {});
        table.innerHTML = '<thead><tr><th></th></tr></thead><tbody></tbody>';
        for (const text of ['9.0', '–', '10.0', '-1.0', '–']) {
            const cell = page.make('td', text === '–' ? {} : {'data-value': text}, text);
            table.tBodies[0].append(page.make('tr', {}, cell));
        }
        return ['ascending', 'descending'].map((way) => {
            tables.sort(table, 0, way);
            return [...table.tBodies[0].rows].map((row) => row.textContent);
        });
    }"""
    assert opened.page.evaluate(script) == [
        ["-1.0", "9.0", "10.0", "–", "–"],
        ["10.0", "9.0", "-1.0", "–", "–"],
    ]


def test_the_filter_keeps_rows_that_hold_every_word(opened):
    page = opened.page
    box = page.locator('[data-table="headline"]')
    everyone = cells(page, "headline", 0)
    box.get_by_label("Filter").fill("alert VALIDATION")
    assert cells(page, "headline", 0) == []
    box.get_by_label("Filter").fill("ALERT script")
    shown = cells(page, "headline", 0)
    assert shown == [title for title in everyone if "alert" in title and "script" in title]
    assert box.locator("output").first.text_content() == f"{len(shown)} of {len(everyone)} rows"
    box.get_by_label("Filter").fill("")
    assert cells(page, "headline", 0) == everyone


def test_csv_and_latex_of_every_table_are_those_that_python_writes(opened, made):
    script = """() => Object.fromEntries([...document.querySelectorAll('.table')].map((box) => {
        const table = box.querySelector('table');
        return [box.dataset.table, [tables.csv(table), tables.tex(table)]];
    }))"""
    found = opened.page.evaluate(script)
    assert len(found) > 10
    for name, (csv, tex) in found.items():
        assert csv == (made / "tables" / f"{name}.csv").read_text(), name
        assert tex == (made / "tables" / f"{name}.tex").read_text(), name


def test_a_table_can_be_copied_and_saved(opened, made):
    page = opened.page
    page.locator('[data-table="cost"]').get_by_role("button", name="LaTeX").click()
    assert page.locator("#copy textarea").input_value() == (made / "tables" / "cost.tex").read_text()
    with page.expect_download() as download:
        page.locator("#copy [data-do=save]").click()
    assert download.value.suggested_filename == "cost.tex"
    page.keyboard.press("Escape")
    assert not page.evaluate("document.getElementById('copy').open")


def test_the_theme_follows_the_system_until_the_button_turns_it(browser, made):
    for scheme in ("light", "dark"):
        page = open_page(browser, made / "r.html", color_scheme=scheme).page
        ground = "getComputedStyle(document.body).backgroundColor"
        before = page.evaluate(ground)
        assert before == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 23, 30)"}[scheme]
        page.get_by_role("button", name="Dark or light").press("Enter")
        assert page.evaluate(ground) != before
        page.get_by_role("button", name="Dark or light").click()
        assert page.evaluate(ground) == before
        page.context.close()


def test_another_entry_fills_the_table_of_classes(opened):
    page = opened.page
    before, caption = cells(page, "classes-verb", 3), page.locator('[data-table="classes-verb"] caption')
    page.locator('[data-table="classes-verb"]').get_by_label("Entry").select_option(index=1)
    assert NASTY[1] in caption.text_content()
    page.locator('[data-table="classes-verb"]').get_by_label("Entry").select_option(index=0)
    assert NASTY[0] in caption.text_content()
    assert cells(page, "classes-verb", 3) == before


def test_the_table_of_classes_that_scripts_fill_is_the_one_that_stands_there(opened):
    page = opened.page
    html = """[...document.querySelectorAll('[data-table="classes-verb"] tbody tr')].map((row) =>
        [...row.cells].map((one) => [one.tagName, one.className, one.scope, one.textContent,
            Number(one.dataset.value), one.getAttribute('style')]))"""
    before = page.evaluate(html)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.locator('[data-table="classes-verb"]').get_by_label("Entry").select_option(index=1)
    page.locator('[data-table="classes-verb"]').get_by_label("Entry").select_option(index=0)
    assert "tail" in cells(page, "classes-verb", 2)
    assert page.evaluate(html) == before


def test_the_matrix_names_the_cell_under_the_keys_and_zooms(opened):
    page = opened.page
    place = page.locator('.confusion[data-target="noun"]')
    canvas, said = place.locator("canvas"), place.locator("output")
    canvas.focus()
    names = page.evaluate("""() => {
        const { names, entries } = page.data('matrices-data').noun;
        return entries[0][0].map((at) => names[at]);
    }""")
    assert said.text_content().startswith(f"{names[0]} taken for {names[0]}: ")
    page.keyboard.press("ArrowRight")
    assert said.text_content().startswith(f"{names[0]} taken for {names[1]}: ")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    assert said.text_content().startswith(f"{names[1]} taken for {names[0]}: ")
    before = canvas.evaluate("(one) => one.toDataURL()")
    page.keyboard.press("Home")
    assert said.text_content() == ""
    page.keyboard.press("+")
    page.keyboard.press("-")
    place.get_by_label("Entry").select_option(index=1)
    assert canvas.evaluate("(one) => one.toDataURL()") != before


def test_the_matrix_counts_every_row_once(opened):
    """What scripts read of it, against the tables that Python wrote."""
    page = opened.page
    script = """(target) => {
        const [places, cells] = page.data('matrices-data')[target].entries[0];
        let sum = 0;
        for (let i = 1; i < cells.length; i += 2) sum += cells[i];
        return [places.length, sum];
    }"""
    count, rows = page.evaluate(script, "verb")
    assert count == 3
    assert rows == sum(int(one) for one in cells(page, "classes-verb", 1))


def test_the_keyboard_reaches_every_control_and_shows_where_it_is(opened):
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.reload()
    count = page.evaluate("""[...document.querySelectorAll('a, button, select, input, summary, canvas')]
        .concat([...document.querySelectorAll('.scroll')]).filter((one) => one.checkVisibility()).length""")
    reached, unseen = set(), []
    for _ in range(count + 5):
        page.keyboard.press("Tab")
        place, tag, is_seen = page.evaluate("""() => {
            const one = document.activeElement, style = getComputedStyle(one);
            window.seen ??= new Map();
            if (!seen.has(one)) seen.set(one, seen.size);
            const isSeen = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
            return [seen.get(one), one.tagName, isSeen];
        }""")
        if tag != "BODY":
            reached.add(place)
            if not is_seen:
                unseen.append(tag)
    assert unseen == []
    assert len(reached) >= count > 50


def test_headings_are_in_order_and_tables_are_labelled(opened):
    page = opened.page
    levels = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3')].map((one) => Number(one.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    bare = page.evaluate("""[...document.querySelectorAll('table')].filter((one) =>
        !one.caption?.textContent.trim()
        || [...one.tHead.rows[0].cells].some((head) => head.scope !== 'col')
        || [...one.tBodies[0].rows].some((row) => row.cells[0].scope !== 'row')).length""")
    assert bare == 0
    links = page.evaluate("[...document.querySelectorAll('nav a')].map((one) => one.hash)")
    assert links
    assert page.evaluate("(links) => links.every((one) => document.querySelector(one))", links)


def test_without_scripts_tables_and_pictures_are_there(browser, made):
    page = open_page(browser, made / "r.html", java_script_enabled=False).page
    assert page.locator('[data-table="headline"] tbody tr').count() == 5
    assert page.locator("#theme").is_hidden()
    assert page.locator("#confusions noscript figure svg, #confusions figure svg").count() == 2
    assert page.locator("#curves figure svg").count() == 1
    page.context.close()


def test_on_paper_everything_is_open_and_nothing_is_cut_off(opened, tmp_path):
    page = opened.page
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 1040, "height": 700})  # A4 across, without its margins
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    wide = page.evaluate("""[...document.querySelectorAll('.table')].filter((one) =>
        one.querySelector('table').getBoundingClientRect().right > innerWidth + 1)
        .map((one) => one.dataset.table)""")
    assert wide == []
    controls = page.evaluate("""[...document.querySelectorAll('button:not(.sort), select, input, nav')]
        .filter((one) => one.offsetParent !== null).length""")
    assert controls == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") > 0


def test_on_paper_a_matrix_has_the_colours_of_paper(browser, made):
    """Whatever the theme: light names on white paper could not be read."""
    drawn = {}
    for scheme in ("light", "dark"):
        page = open_page(browser, made / "r.html", color_scheme=scheme).page
        page.emulate_media(media="print")
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        drawn[scheme] = page.locator("canvas").first.evaluate("(one) => one.toDataURL()")
        page.emulate_media(media="screen")
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert page.locator("canvas").first.evaluate("(one) => one.toDataURL()") != drawn[scheme]
        page.context.close()
    assert drawn["light"] == drawn["dark"]


def test_a_report_moves_with_its_file(browser, made, tmp_path):
    """It asks for nothing beside itself."""
    shutil.copy(made / "r.html", tmp_path / "moved & renamed.html")
    found = open_page(browser, tmp_path / "moved & renamed.html", offline=True)
    assert found.page.locator('[data-table="headline"] .sort').count() > 5
    assert (found.errors, found.requests) == ([], [])
    found.page.context.close()
