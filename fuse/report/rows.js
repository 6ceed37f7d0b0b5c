"use strict";
{
  // The rows of the page: unpacked when it opens, filtered and shown a screen at a time. What comes from data
  // reaches the page through textContent alone.
  const HEIGHT = 48, AROUND = 8; // pixels of a row in the list, rows drawn above and below those that are seen
  const SUGGESTED = 50; // names of classes
  const SHARES = Float32Array.from({ length: 256 }, (_, byte) => (byte / 255) ** 2); // probabilities of bytes
  const by = (id) => document.getElementById(id);
  const section = by("rows"), list = by("rows-list"), shown = by("rows-shown"), detail = by("rows-detail");
  const controls = ["text", "target", "run", "verdict", "class", "as", "sort"];
  const tables = [];
  let table = null, order = [], at = -1, open = -1;

  const make = (tag, { cls, ...properties } = {}, ...children) => {
    const found = Object.assign(document.createElement(tag), properties);
    if (cls) found.className = cls;
    found.append(...children.filter((one) => one !== null));
    return found;
  };

  // --- unpacking: see packing.py

  async function unpack(id) {
    const packed = atob(by(id).textContent), bytes = new Uint8Array(packed.length);
    for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function load(number) {
    if (tables[number]) return tables[number];
    const found = JSON.parse(new TextDecoder().decode(await unpack(`rows-${number}`)));
    found.place = new Map(found.ids.map((id, row) => [id, row]));
    found.name = `rows-${number}`;
    await Promise.all(found.runs.map(async (run) => {
      run.answers = answers(await unpack(run.block), found, run);
    }));
    return tables[number] = found;
  }

  // by target: classes and probabilities of each row, best first, and the probability of its label
  function answers(bytes, found, run) {
    const rows = found.ids.length, own = new Array(found.targets.length).fill(null);
    let start = 0;
    const take = () => bytes.subarray(start, start += rows);
    const times = (count, one) => Array.from({ length: count }, one);
    const probability = () => {
      const packed = take(), shares = new Float32Array(rows);
      for (let row = 0; row < rows; row++) shares[row] = SHARES[packed[row]];
      return shares;
    };
    for (const [number, count, width, areRanks] of run.targets) {
      const numbers = times(count, () => {
        const whole = new Float64Array(rows);
        for (let place = 0; place < width; place++) {
          const plane = take();
          for (let row = 0; row < rows; row++) whole[row] += plane[row] * 256 ** place;
        }
        return whole;
      });
      own[number] = areRanks ? combined(found, own, found.targets[number].of, numbers)
        : { classes: numbers, probabilities: times(count, probability), ofLabel: probability() };
    }
    return own;
  }

  // of a combination: from the ranks of its parts among their best
  function combined(found, own, parts, ranks) {
    const rows = found.ids.length, sizes = parts.map((part) => size(found, part));
    const classes = [], probabilities = [];
    for (const rank of ranks) {
      const numbers = new Float64Array(rows), shares = new Float32Array(rows).fill(1);
      for (let row = 0; row < rows; row++) {
        let rest = rank[row], factor = 1;
        for (let i = parts.length - 1; i >= 0; i--) {
          const part = own[parts[i]], place = rest % part.classes.length, one = part.classes[place][row];
          rest = Math.floor(rest / part.classes.length);
          numbers[row] = one === sizes[i] ? NaN : numbers[row] + factor * one;
          shares[row] *= part.probabilities[place][row];
          factor *= sizes[i];
        }
        if (Number.isNaN(numbers[row])) numbers[row] = factor;
      }
      classes.push(numbers);
      probabilities.push(shares);
    }
    const ofLabel = new Float32Array(rows).fill(1);
    for (const part of parts) for (let row = 0; row < rows; row++) ofLabel[row] *= own[part].ofLabel[row];
    return { classes, probabilities, ofLabel };
  }

  // how many classes a target has; of a combination, how many there could be
  const size = (found, target) => {
    const { of, names } = found.targets[target];
    return of ? of.reduce((all, part) => all * size(found, part), 1) : names.length;
  };

  // --- what a row is

  const labels = (target, row) => {
    const { of } = table.targets[target];
    if (of) {
      const parts = of.map((part) => labels(part, row)[0]);
      return parts.includes(undefined) ? [] : [parts.reduce((all, one, i) => all * size(table, of[i]) + one, 0)];
    }
    const own = table.labels[target][row];
    return Array.isArray(own) ? own : own < 0 ? [] : [own];
  };
  // of a run: true, false; null where it has no answer or the row no label
  const isRight = (run, target, row) => {
    const own = labels(target, row), first = answer(run, target, row);
    return first === null || !own.length ? null : own.includes(first);
  };
  const answer = (run, target, row) => {
    const found = run.answers[target];
    return !found || found.classes[0][row] === size(table, target) ? null : found.classes[0][row];
  };
  const distinct = (target, row) =>
    new Set(table.runs.map((run) => answer(run, target, row)).filter((one) => one !== null)).size;
  const named = (target, numbers) => numbers.map((one) => nameOf(target, one)).join(", ");
  const nameOf = (target, number) => {
    const { of, names } = table.targets[target];
    if (!of) return names[number];
    const words = [];
    for (const part of [...of].reverse()) {
      words.unshift(nameOf(part, number % size(table, part)));
      number = Math.floor(number / size(table, part));
    }
    return words.join(" ");
  };
  const seconds = (hundredths) => `${(hundredths / 100).toFixed(2)} s`;
  const percent = (share) => {
    const value = 100 * share;
    return value >= 9.95 ? `${Math.round(value)} %` : value >= 0.05 ? `${value.toFixed(1)} %` : "< 0.1 %";
  };

  function words(row) {
    table.words ??= [];
    return table.words[row] ??= [
      table.ids[row], table.videos[table.video[row]], table.participants[table.video[row]], table.narration[row],
      ...table.targets.map((_, target) => named(target, labels(target, row))),
      ...table.questions.map((asked) => asked.texts[asked.rows[row]]),
    ].join("\n").toLowerCase();
  }

  // --- which rows, in which order

  function chosen() {
    const value = Object.fromEntries(controls.map((name) => [name, by(`rows-${name}`).value]));
    const target = Number(value.target), wanted = value.text.toLowerCase().split(/\s+/).filter(Boolean);
    const runs = value.run === "" ? table.runs : [table.runs[Number(value.run)]];
    const verdicts = {
      all: () => true,
      right: (row) => runs.every((run) => isRight(run, target, row) === true),
      wrong: (row) => runs.every((run) => isRight(run, target, row) === false),
      apart: (row) => distinct(target, row) > 1,
      pictures: (row) => row in table.clips,
      unlabelled: (row) => !labels(target, row).length,
    };
    const meant = classesCalled(target, value.class);
    const inLabel = (row) => labels(target, row).some((one) => meant.has(one));
    const inAnswer = (row) => runs.some((run) => meant.has(answer(run, target, row)));
    const classes = { label: inLabel, answer: inAnswer, either: (row) => inLabel(row) || inAnswer(row) };
    const fits = verdicts[value.verdict], isMeant = meant === null ? () => true : classes[value.as];
    const found = [];
    for (let row = 0; row < table.ids.length; row++) {
      if (fits(row) && isMeant(row) && wanted.every((one) => words(row).includes(one))) found.push(row);
    }
    return sorted(found, value.sort, target, runs);
  }

  // numbers of the classes of a name, or else of those whose names hold it; null for no name
  function classesCalled(target, text) {
    const name = text.trim().toLowerCase();
    if (!name) return null;
    const exact = new Set(), within = new Set();
    for (let number = 0; number < size(table, target); number++) {
      const own = nameOf(target, number).toLowerCase();
      if (own === name) exact.add(number);
      else if (own.includes(name)) within.add(number);
    }
    return exact.size ? exact : within;
  }

  function sorted(rows, how, target, runs) {
    const sum = (row, of) => runs.reduce((all, run) => all + (run.answers[target] ? of(run.answers[target])[row] : 0), 0);
    const keys = {
      sure: (row) => -sum(row, (one) => one.probabilities[0]),
      label: (row) => labels(target, row).length ? sum(row, (one) => one.ofLabel) : Infinity,
      apart: (row) => -distinct(target, row),
    };
    if (how === "id") {
      const compare = new Intl.Collator("en", { numeric: true }).compare;
      return rows.sort((one, other) => compare(table.ids[one], table.ids[other]));
    }
    if (!(how in keys)) return rows;
    const key = new Map(rows.map((row) => [row, keys[how](row)]));
    return rows.sort((one, other) => key.get(one) < key.get(other) ? -1 : key.get(one) > key.get(other) ? 1 : one - other);
  }

  function filter() {
    order = chosen();
    at = order.indexOf(open);
    const rows = table.ids.length;
    by("rows-count").textContent = `${order.length.toLocaleString("en")} of ${rows.toLocaleString("en")} rows`;
    by("rows-space").style.height = `${HEIGHT * order.length}px`;
    list.scrollTop = 0;
    draw();
  }

  // --- the list: only what is seen is drawn

  function draw() {
    const first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - AROUND);
    const last = Math.min(order.length, Math.ceil((list.scrollTop + list.clientHeight) / HEIGHT) + AROUND);
    shown.style.transform = `translateY(${HEIGHT * first}px)`;
    shown.replaceChildren(...Array.from({ length: Math.max(0, last - first) }, (_, i) => item(first + i)));
    if (at >= first && at < last) list.setAttribute("aria-activedescendant", `rows-at-${at}`);
    else list.removeAttribute("aria-activedescendant");
  }

  function item(place) {
    const row = order[place], target = Number(by("rows-target").value);
    const right = table.runs.map((run) => isRight(run, target, row));
    const marks = make("span", { cls: "rows-marks", ariaHidden: "true" }, ...right.map((one) =>
      make("span", { cls: one ? "rows-right" : "" }, one === null ? "·" : one ? "●" : "○")));
    const own = named(target, labels(target, row)), told = table.narration[row] || own || "no label";
    const line = make("div", { cls: "rows-item", id: `rows-at-${place}`, role: "option" },
      make("span", {}, make("b", {}, table.ids[row]), marks),
      make("small", {}, make("span", {}, told), make("span", {}, row in table.clips ? "pictures" : "")));
    const known = right.filter((one) => one !== null);
    const verdict = known.length ? `, right under ${known.filter(Boolean).length} of ${known.length} runs` : "";
    line.ariaLabel = `${table.ids[row]}: ${told}${verdict}`;
    line.ariaSelected = String(place === at);
    line.ariaPosInSet = String(place + 1);
    line.ariaSetSize = String(order.length);
    line.dataset.place = place;
    return line;
  }

  function reveal() {
    const top = HEIGHT * at;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + HEIGHT - list.clientHeight;
  }

  function go(place) {
    if (!order.length) return;
    at = Math.min(Math.max(place, 0), order.length - 1);
    show(order[at]);
    reveal();
    draw();
  }

  // --- one row

  // isNamed: whether the page's address becomes that of the row
  function show(row, isNamed = true) {
    open = row;
    const address = `#${encodeURIComponent(table.ids[row])}`;
    if (isNamed && location.hash !== address) history.replaceState(null, "", address);
    const steps = make("span", { cls: "rows-step" }, ...[["previous", -1], ["next", 1]].map(([name, step]) =>
      make("button", { type: "button", onclick: () => go(at + step) }, name)));
    detail.replaceChildren(steps, make("h3", {}, make("a", { href: address }, table.ids[row])),
      facts(row), ...pictures(row), ...asked(row), ...table.targets.map((_, target) => answered(target, row)));
    detail.dataset.row = table.ids[row];
  }

  function facts(row) {
    const video = table.video[row], found = make("dl");
    const say = (name, text) => { if (text) found.append(make("dt", {}, name), make("dd", {}, text)); };
    say("narration", table.narration[row]);
    if (video >= 0) {
      say("video", `${table.videos[video]}, participant ${table.participants[video]}`);
      say("time", `${seconds(table.start[row])} to ${seconds(table.stop[row])}`);
    }
    table.targets.forEach(({ name }, target) => say(name, named(target, labels(target, row)) || "no label"));
    return found;
  }

  function pictures(row) {
    if (!(row in table.clips)) return [];
    table.strips ??= by(`${table.name}-clips`).textContent.split("\n");
    const [line, why, times, before] = table.clips[row];
    const said = times.map((time, place) => seconds(time) + (place < before ? " (before)" : "")).join(", ");
    const strip = make("img", { src: `data:image/webp;base64,${table.strips[line]}`, alt: `Frames at ${said}` });
    const isChosen = Object.keys(table.clips).length < table.ids.length; // else there is nothing to say of it
    const notes = [`At ${said}.`, isChosen ? ` Chosen as: ${table.why[why]}.` : "",
      before ? " What a run that anticipates could see is marked: before." : ""];
    return [make("figure", {}, strip, make("figcaption", {}, notes.join("")))];
  }

  function answered(target, row) {
    const { name } = table.targets[target], own = labels(target, row);
    return make("section", {}, make("h4", {}, `${name}${own.length ? `: ${named(target, own)}` : ""}`),
      ...table.runs.map((run) => {
        const found = run.answers[target], right = isRight(run, target, row);
        const mark = right === null ? "" : right ? "● " : "○ ";
        const title = make("span", {}, make("span", { cls: right ? "rows-right" : "" }, mark), run.title, make("br"),
          make("small", {}, `text ${run.protocols}, seed ${run.seed}`));
        if (answer(run, target, row) === null) {
          const why = found ? "did not score this row" : "was not trained for this target";
          return make("div", { cls: "rows-run" }, title, make("span", {}, why));
        }
        const chips = found.classes.map((classes, k) => {
          const share = percent(found.probabilities[k][row]), isLabel = own.includes(classes[row]);
          const chip = make("li", { cls: isLabel ? "rows-label" : "" }, isLabel ? "✓ " : "", `${nameOf(target, classes[row])} `,
            make("small", {}, share));
          chip.style.setProperty("--share", `${100 * found.probabilities[k][row]}%`);
          return chip;
        });
        const missed = own.length && !found.classes.some((classes) => own.includes(classes[row]));
        const rest = missed ? make("li", { cls: "rows-label" }, "label ", make("small", {}, percent(found.ofLabel[row]))) : null;
        if (rest) rest.style.setProperty("--share", `${100 * found.ofLabel[row]}%`);
        return make("div", { cls: "rows-run" }, title, make("ol", {}, ...chips, rest));
      }));
  }

  function asked(row) {
    const found = table.questions.map((one, number) => {
      const runs = table.runs.filter((run) => run.asked.includes(number)).map((run) => run.title);
      return [`${one.name.replace("_", " ")}, ${one.protocol}`, one.texts[one.rows[row]] ?? "(not in the file)", runs];
    });
    const unknown = table.runs.filter((run) => run.untold.length);
    if (!found.length && !unknown.length) return [];
    const told = make("dl");
    for (const [name, text, runs] of found) {
      told.append(make("dt", {}, name), make("dd", {}, text || "(empty)", make("br"), make("small", {}, `asked of ${runs.join("; ")}`)));
    }
    const note = unknown.length ? make("p", { cls: "rows-note" }, "The texts that were asked of "
      + `${unknown.map((run) => run.title).join("; ")} are in no store: `, make("code", {}, "mambavl report ... --questions FILE"),
      " shows them, with the file that the runs' text store was made from.") : null;
    return [make("section", {}, make("h4", {}, "What was asked"), told, ...(note ? [note] : []))];
  }

  // --- from outside: addresses, keys, controls

  function fill() {
    const options = (id, found) => by(id).replaceChildren(...found.map(([value, text]) => make("option", { value }, text)));
    options("rows-target", table.targets.map(({ name }, target) => [target, name]));
    by("rows-target").value = table.targets.length - 1;
    options("rows-run", [["", "all runs"], ...table.runs.map((run, number) => [number, run.title])]);
    by("rows-class").value = by("rows-text").value = "";
    suggest();
    by("rows-verdict").value = "all";
    by("rows-sort").value = "list";
  }

  // some names of classes that hold what was typed: of actions there are thousands
  function suggest() {
    const target = Number(by("rows-target").value), found = classesCalled(target, by("rows-class").value);
    const some = found ? [...found] : Array.from({ length: size(table, target) }, (_, number) => number);
    by("rows-classes").replaceChildren(...some.slice(0, SUGGESTED).map((number) =>
      make("option", { value: nameOf(target, number) })));
  }

  async function use(number) {
    table = await load(number);
    open = at = -1;
    if (by("rows-table")) by("rows-table").value = number;
    fill();
    const first = Object.keys(table.clips).map(Number);
    show(first.length ? Math.min(...first) : 0, false);
    filter();
  }

  // the row that the address names, wherever it is; whether there is one
  async function follow() {
    let id = location.hash.slice(1);
    try { id = decodeURIComponent(id); } catch { /* not written by us: taken as it is */ }
    if (!id || (by(id) && !table.place.has(id))) return;
    const others = Array.from({ length: Number(section.dataset.tables) }, (_, number) => number);
    for (const number of [tables.indexOf(table), ...others]) {
      const found = await load(number);
      if (!found.place.has(id)) continue;
      if (found !== table) await use(number);
      const row = found.place.get(id);
      if (!order.includes(row)) { fill(); filter(); }
      go(order.indexOf(row));
      list.focus({ preventScroll: true }); // so that keys go on from here
      detail.scrollIntoView();
      return;
    }
  }

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const screen = Math.floor(list.clientHeight / HEIGHT), inList = event.target === list;
    const steps = { j: at + 1, k: at - 1 };
    if (inList) {
      Object.assign(steps, { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + screen, PageUp: at - screen,
        Home: 0, End: order.length - 1 });
    }
    if (!(event.key in steps)) return;
    event.preventDefault();
    go(steps[event.key]);
  }

  async function start() {
    if (typeof DecompressionStream === "undefined") {
      by("rows-fault").textContent = "This browser cannot unpack the rows: it has no DecompressionStream, which Chrome and "
        + "Edge have since 80, Safari since 16.4, Firefox since 113.";
      return;
    }
    await load(0);
    by("rows-browser").hidden = false; // before anything is drawn: what is hidden has no height
    by("rows-fault").hidden = true;
    await use(0);
    list.addEventListener("scroll", draw);
    list.addEventListener("click", (event) => {
      const line = event.target.closest(".rows-item");
      if (line) go(Number(line.dataset.place));
    });
    section.addEventListener("keydown", pressed);
    for (const name of controls) {
      by(`rows-${name}`).addEventListener("input", () => { if (name === "target") by("rows-class").value = "";
        if (name === "target" || name === "class") suggest();
        filter();
      });
    }
    by("rows-table")?.addEventListener("input", (event) => use(Number(event.target.value)));
    by("rows-reset").addEventListener("click", () => { fill(); filter(); });
    addEventListener("resize", draw);
    addEventListener("hashchange", follow);
    await follow();
    section.dataset.state = "ready";
    performance.mark("rows ready");
  }

  start().catch((error) => {
    section.dataset.state = "failed";
    by("rows-fault").hidden = false;
    by("rows-fault").textContent = `The rows cannot be unpacked (${error.message}); make the page again.`;
  });
}
