// --- classes: the table of another entry
{
  const data = page.data("classes-data"), titles = page.data("titles-data");
  const number = (value) => value.toLocaleString("en-US");
  const row_of = ([name, rows, is_tail, ...recalls]) => {
    const bar = (value) =>
      page.make("td", { "data-value": value, style: `--share:${(value / 100).toFixed(3)}` }, value.toFixed(1));
    return page.make(
      "tr", {},
      page.make("th", { scope: "row" }, name),
      page.make("td", { "data-value": rows }, number(rows)),
      page.make("td", { class: is_tail ? "text tail" : "text" }, is_tail ? "tail" : "head"),
      ...recalls.map(bar),
    );
  };
  for (const place of document.querySelectorAll(".classes")) {
    const { lists, entries } = data[place.dataset.target], box = place.querySelector(".table"), table = box.querySelector("table");
    const there = entries.map((entry, at) => at).filter((at) => entries[at]);
    const choice = page.choose("Entry", there.map((at) => titles[at]), (chosen) => {
      const [caption, list, ...recalls] = entries[there[chosen]], [names, counts, tails] = lists[list];
      const rows = names.map((name, at) => [name, counts[at], tails[at], recalls[0][at], recalls[1][at]]);
      table.caption.textContent = caption;
      table.tBodies[0].replaceChildren(...rows.map(row_of));
      tables.unsorted(table);
      tables.filter(box, box.querySelector("input").value);
    });
    box.querySelector(".tools").prepend(choice);
  }
}
