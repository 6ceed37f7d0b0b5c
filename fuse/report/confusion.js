// --- confusions: a matrix that zooms, and names the cell under the pointer or the arrow keys
{
  const MOST = 20; // classes in the short view
  const data = page.data("matrices-data"), titles = page.data("titles-data");

  /** {names, rows: for each label a Map of prediction -> rows, sums}; the short one joins all others. */
  const matrix_of = ({ names, cells }, is_short) => {
    const shown = is_short && names.length > MOST + 1 ? [...names.slice(0, MOST), "other"] : names;
    const at = (place) => Math.min(place, shown.length - 1);
    const rows = shown.map(() => new Map());
    let cell = 0;
    for (let i = 0; i < cells.length; i += 2) {
      cell += cells[i];
      const row = rows[at(Math.floor(cell / names.length))], column = at(cell % names.length);
      row.set(column, (row.get(column) ?? 0) + cells[i + 1]);
    }
    return { names: shown, rows, sums: rows.map((row) => [...row.values()].reduce((a, b) => a + b, 0)) };
  };

  const set_up = (place) => {
    const target = place.dataset.target, { names, entries } = data[target];
    const of_entry = ([places, cells]) => ({ names: places.map((at) => names[at]), cells });
    const there = entries.map((entry, at) => at).filter((at) => entries[at]);
    const canvas = page.make("canvas", {
      tabindex: 0, role: "application", "aria-label": `${target}: matrix of labels and predictions; arrow keys move, plus and minus zoom`,
    });
    const said = page.make("output", { "aria-live": "polite" });
    let chosen = there[0], is_short = true, matrix, view, at, size, drawn;

    const reset = () => {
      matrix = matrix_of(of_entry(entries[chosen]), is_short);
      view = { x: 0, y: 0, cells: matrix.names.length };
      at = null;
      said.textContent = "";
      draw();
    };
    const frame = () => {
      const width = Math.max(240, Math.min(760, place.clientWidth)), left = width < 480 ? 70 : 120;
      return { width, left, side: width - left - 4, top: 4 };
    };
    const draw = () => {
      const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
      const { width, left, side, top } = frame(), height = top + side + left;
      drawn = width;
      const scale = devicePixelRatio || 1, pen = canvas.getContext("2d");
      canvas.width = width * scale;
      canvas.height = height * scale;
      canvas.style.width = `${width}px`;
      pen.scale(scale, scale);
      size = side / view.cells;
      const good = colour("--good"), bad = colour("--bad"), ink = colour("--ink");
      pen.save();
      pen.beginPath();
      pen.rect(left, top, side, side);
      pen.clip();
      matrix.rows.forEach((row, label) => {
        for (const [guess, count] of row) {
          pen.fillStyle = label === guess ? good : bad;
          pen.globalAlpha = 0.12 + 0.88 * (count / matrix.sums[label]);
          pen.fillRect(left + (guess - view.x) * size, top + (label - view.y) * size, Math.max(size - 0.5, 0.8), Math.max(size - 0.5, 0.8));
        }
      });
      pen.globalAlpha = 1;
      if (at) {
        pen.strokeStyle = ink;
        pen.lineWidth = 2;
        pen.strokeRect(left + (at.column - view.x) * size, top + (at.row - view.y) * size, size, size);
      }
      pen.restore();
      pen.strokeStyle = colour("--line");
      pen.strokeRect(left, top, side, side);
      if (size < 9) return;
      pen.fillStyle = ink;
      pen.font = `${Math.min(12, Math.max(9, size * 0.8))}px system-ui, sans-serif`;
      pen.textBaseline = "middle";
      pen.textAlign = "right";
      const fits = (text) => {
        if (pen.measureText(text).width <= left - 8) return text;
        let short = text.slice(0, 40);
        while (short && pen.measureText(`${short}…`).width > left - 8) short = short.slice(0, -1);
        return `${short}…`;
      };
      matrix.names.forEach((name, number) => {
        const y = top + (number - view.y + 0.5) * size, x = left + (number - view.x + 0.5) * size;
        if (y > top && y < top + side) pen.fillText(fits(name), left - 5, y);
        if (x > left && x < left + side) {
          pen.save();
          pen.translate(x, top + side + 5);
          pen.rotate(-Math.PI / 2);
          pen.fillText(fits(name), 0, 0);
          pen.restore();
        }
      });
    };
    const clamp = () => {
      const count = matrix.names.length;
      view.cells = Math.min(count, Math.max(Math.min(4, count), view.cells));
      view.x = Math.min(count - view.cells, Math.max(0, view.x));
      view.y = Math.min(count - view.cells, Math.max(0, view.y));
    };
    const zoom = (factor, x, y) => {
      const before = view.cells;
      view.cells *= factor;
      clamp();
      view.x = x - ((x - view.x) * view.cells) / before;
      view.y = y - ((y - view.y) * view.cells) / before;
      clamp();
      draw();
    };
    const name_cell = (row, column) => {
      at = { row, column };
      const count = matrix.rows[row].get(column) ?? 0, of = matrix.sums[row];
      const share = of ? ` (${((100 * count) / of).toFixed(1)} % of its ${of})` : "";
      said.textContent = `${matrix.names[row]} taken for ${matrix.names[column]}: ${count} rows${share}`;
    };
    const cell_at = (event) => {
      const box = canvas.getBoundingClientRect(), { left, side, top, width } = frame(), scale = width / box.width;
      const x = (event.clientX - box.left) * scale - left, y = (event.clientY - box.top) * scale - top;
      const inside = x >= 0 && y >= 0 && x < side && y < side;
      return { inside, x: view.x + x / size, y: view.y + y / size };
    };
    const middle = () => (at ? [at.column + 0.5, at.row + 0.5] : [view.x + view.cells / 2, view.y + view.cells / 2]);

    let held = null;
    canvas.addEventListener("pointerdown", (event) => { held = cell_at(event); canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointerup", () => { held = null; });
    canvas.addEventListener("pointermove", (event) => {
      const cell = cell_at(event);
      if (held) {
        view.x += held.x - cell.x;
        view.y += held.y - cell.y;
        clamp();
      } else if (cell.inside) {
        name_cell(Math.floor(cell.y), Math.floor(cell.x));
      }
      draw();
    });
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas && !event.ctrlKey) return; // the page scrolls
      const cell = cell_at(event);
      event.preventDefault();
      zoom(event.deltaY > 0 ? 1.25 : 0.8, cell.x, cell.y);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (move) {
        const last = matrix.names.length - 1, from = at ?? { row: Math.floor(view.y), column: Math.floor(view.x) };
        const to = (value, step) => Math.min(last, Math.max(0, value + step));
        name_cell(at ? to(from.row, move[0]) : from.row, at ? to(from.column, move[1]) : from.column);
        view.x = Math.min(Math.max(view.x, at.column + 1 - view.cells), at.column);
        view.y = Math.min(Math.max(view.y, at.row + 1 - view.cells), at.row);
        draw();
      } else if (event.key === "+" || event.key === "=") zoom(0.8, ...middle());
      else if (event.key === "-") zoom(1.25, ...middle());
      else if (event.key === "Home") reset();
      else return;
      event.preventDefault();
    });
    canvas.addEventListener("focus", () => { if (!at) name_cell(Math.floor(view.y), Math.floor(view.x)); draw(); });

    const button = (label, words, call) => {
      const found = page.make("button", { type: "button", "aria-label": words }, label);
      found.addEventListener("click", call);
      return found;
    };
    place.append(
      page.make("h3", {}, target),
      page.make(
        "div", { class: "tools" },
        page.choose("Entry", there.map((one) => titles[one]), (one) => { chosen = there[one]; reset(); }),
        page.choose("Classes", [`the ${MOST} most frequent`, "all"], (one) => { is_short = one === 0; reset(); }),
        button("+", `${target}: zoom in`, () => zoom(0.7, ...middle())),
        button("−", `${target}: zoom out`, () => zoom(1.4, ...middle())),
        button("Whole", `${target}: the whole matrix`, reset),
      ),
      canvas, said,
      page.make("p", { class: "hint" }, "The deeper the colour, the larger the share of the label's rows. Drag to move; once the matrix has the focus, the wheel and + and − zoom, arrow keys go from cell to cell, Home shows all."),
    );
    page.onTheme.push(draw);
    new ResizeObserver(() => { if (frame().width !== drawn) draw(); }).observe(place);
    reset();
  };
  document.querySelectorAll(".confusion").forEach(set_up);
}
