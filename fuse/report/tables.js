// --- tables: sorted by a click or a key, filtered, and as CSV or LaTeX by the rules of tables.py
const tables = {
  cells: (row) => [...row.cells].map((cell) => cell.textContent),
  /** Header, then the rows that are shown, in their order. */
  texts(table) {
    const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden);
    return [table.tHead.rows[0], ...rows].map(tables.cells);
  },
  csv(table) {
    const cell = (text) => {
      const safe = /^[=+\-@]/.test(text) && !/^[-+]?\d+(\.\d+)?$/.test(text) ? `'${text}` : text;
      return /[",]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
    };
    return tables.texts(table).map((line) => line.map(cell).join(",") + "\n").join("");
  },
  tex(table) {
    const map = {
      "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "$": "\\$", "&": "\\&", "#": "\\#", "%": "\\%", "_": "\\_",
      "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}",
      "±": "$\\pm$", "×": "$\\times$", "−": "$-$", "–": "--",
    };
    const cell = (text) => text.replace(/\p{Cf}/gu, "").replace(/[\\{}$&#%_~^<>±×−–]/g, (one) => map[one]);
    const kinds = [...table.tHead.rows[0].cells].map((head) => (head.classList.contains("text") ? "l" : "r"));
    const [header, ...rows] = tables.texts(table).map((line) => `${line.map(cell).join(" & ")} \\\\`);
    const lines = [`\\begin{tabular}{${kinds.join("")}}`, "\\toprule", header, "\\midrule", ...rows];
    return [...lines, "\\bottomrule", "\\end{tabular}", ""].join("\n");
  },
  /** By a column: numbers before texts, cells without a value last whichever way. */
  sort(table, at, direction) {
    const sign = direction === "ascending" ? 1 : -1;
    const keyed = [...table.tBodies[0].rows].map((row) => {
      const cell = row.cells[at];
      return { row, value: cell.dataset.value === undefined ? null : Number(cell.dataset.value), text: cell.textContent };
    });
    keyed.sort((a, b) => {
      if (a.value !== null && b.value !== null) return sign * (a.value - b.value);
      if (a.value !== null || b.value !== null) return a.value === null ? 1 : -1;
      return sign * a.text.localeCompare(b.text, "en", { numeric: true });
    });
    table.tBodies[0].append(...keyed.map((one) => one.row));
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      if (place === at) head.setAttribute("aria-sort", direction);
      else head.removeAttribute("aria-sort");
    });
  },
  unsorted: (table) => table.tHead.querySelectorAll("[aria-sort]").forEach((head) => head.removeAttribute("aria-sort")),
  /** Show the rows that hold every word. */
  filter(box, words) {
    const rows = [...box.querySelector("tbody").rows];
    const asked = words.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row) => { row.hidden = !asked.every((word) => row.textContent.toLowerCase().includes(word)); });
    const shown = rows.filter((row) => !row.hidden).length;
    box.querySelector(".tools output").textContent = asked.length ? `${shown} of ${rows.length} rows` : "";
  },
  /** A dialog with a text, to be copied or saved. */
  offer(name, text) {
    const dialog = document.getElementById("copy"), area = dialog.querySelector("textarea");
    dialog.querySelector("h2").textContent = name;
    dialog.querySelector("output").textContent = "";
    area.value = text;
    dialog.showModal();
    area.select();
  },
  set_up(box) {
    const table = box.querySelector("table"), name = box.dataset.table;
    [...table.tHead.rows[0].cells].forEach((head, at) => {
      const button = page.make("button", { type: "button", class: "sort" }, head.textContent);
      button.addEventListener("click", () => {
        const is_text = head.classList.contains("text"), now = head.getAttribute("aria-sort");
        const next = now ? (now === "ascending" ? "descending" : "ascending") : is_text ? "ascending" : "descending";
        tables.sort(table, at, next);
      });
      head.replaceChildren(button);
    });
    const filter = page.make("input", { type: "search", size: 16 });
    filter.addEventListener("input", () => tables.filter(box, filter.value));
    const csv = page.make("button", { type: "button", "aria-label": `CSV of ${table.caption.textContent}` }, "CSV");
    csv.addEventListener("click", () => tables.offer(`${name}.csv`, tables.csv(table)));
    const tex = page.make("button", { type: "button", "aria-label": `LaTeX of ${table.caption.textContent}` }, "LaTeX");
    tex.addEventListener("click", () => tables.offer(`${name}.tex`, tables.tex(table)));
    box.prepend(page.make("div", { class: "tools" }, page.make("label", {}, "Filter", filter), page.make("output"), csv, tex));
  },
};
{
  document.querySelectorAll(".table").forEach(tables.set_up);
  const dialog = document.getElementById("copy"), area = dialog.querySelector("textarea");
  dialog.addEventListener("click", async (event) => {
    const deed = event.target.dataset.do, said = dialog.querySelector("output");
    if (deed === "copy") {
      area.select();
      try {
        await navigator.clipboard.writeText(area.value);
        said.textContent = "copied";
      } catch {
        said.textContent = "this browser does not let pages copy: the text is selected, press Ctrl C";
      }
    } else if (deed === "save") {
      const url = URL.createObjectURL(new Blob([area.value], { type: "text/plain" }));
      page.make("a", { href: url, download: dialog.querySelector("h2").textContent }).click();
      URL.revokeObjectURL(url);
    }
  });
}
