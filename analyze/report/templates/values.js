// Values under the pointer, or under the arrow keys: each figure carries its numbers in data-panel.
const tip = make("div", { class: "tip", role: "status", "aria-live": "polite", hidden: "" });
document.body.append(tip);

const closest = (places, at) => places.reduce((best, place, k) =>
  place != null && (best < 0 || Math.abs(place - at) < Math.abs(places[best] - at)) ? k : best, -1);
const inside = ([left, top, right, bottom], x, y) => x >= left - 8 && x <= right + 8 && y >= top - 8 && y <= bottom + 8;
const centres = (from, to, count) => Array.from({ length: count }, (_, k) => from + (to - from) * (k + 0.5) / count);

// Edges of the columns of a table: those of a map over time are as wide as the time they stand for.
function across({ map, cells: { box: [left, , right], columns: { length: count } } }) {
  return map?.edges ?? Array.from({ length: count + 1 }, (_, k) => left + (right - left) * k / count);
}

// What a place of a panel shows: a head, rows of [colour, name, value], and the marks to draw there.
function look(panel, x, y) {
  const { cells, points, lines = [], xs = [] } = panel;
  if (cells && inside(cells.box, x, y)) {
    const [, top, , bottom] = cells.box, edges = across(panel);
    const column = Math.max(0, edges.findLastIndex((edge, k) => edge <= x && k < cells.columns.length));
    const row = closest(centres(top, bottom, cells.rows.length), y);
    const [left, width, height] = [edges[column], edges[column + 1] - edges[column], (bottom - top) / cells.rows.length];
    return {
      head: [named(panel.y, cells.rows[row]), named(panel.x, cells.columns[column])].join(", "),
      rows: [["", cells.what || panel.title, shown(cells.values[row][column])]],
      marks: [make("rect", { x: left, y: top + row * height, width, height })],
      at: [left + 0.5 * width, top + (row + 0.5) * height],
    };
  }
  const near = points?.map(point => Math.hypot(point.at[0] - x, point.at[1] - y));
  const k = near ? near.indexOf(Math.min(...near)) : -1;
  if (k >= 0 && (near[k] < 14 || !lines.length)) {
    const point = points[k];
    const rows = [["", panel.x || panel.title.split("\n")[0] || "x", shown(point.xs)]];
    if (point.ys != null) rows.push(["", panel.y || "y", shown(point.ys)]);
    if ("value" in point) rows.push(["", "value", shown(point.value)]);
    return { head: point.name, rows, marks: [make("circle", { cx: point.at[0], cy: point.at[1], r: 4 })], at: point.at };
  }
  if (!lines.length) return null;
  const found = xs.map(set => closest(set.at, x));
  const gaps = xs.map((set, n) => found[n] < 0 ? Infinity : Math.abs(set.at[found[n]] - x));
  const first = gaps.indexOf(Math.min(...gaps));
  const place = xs[first].at[found[first]];
  const here = lines.filter(line => Math.abs(xs[line.x].at[found[line.x]] - place) < 1);
  const [, top, , bottom] = panel.box;
  return {
    head: named(panel.x, xs[first].names[found[first]]),
    rows: here.map(line => [line.color, line.name || panel.y || panel.title, shown(line.y[found[line.x]])]),
    marks: [
      make("line", { x1: place, x2: place, y1: top, y2: bottom }),
      ...here.filter(line => line.at[found[line.x]] != null).map(line => make("circle", { cx: place, cy: line.at[found[line.x]], r: 3 })),
    ],
    at: [place, y],
  };
}
const named = (axis, value) => axis ? `${axis} ${value}` : value;

function hide(svg) {
  tip.hidden = true;
  svg.querySelector(".here")?.remove();
}

function show(svg, panel, x, y) {
  hide(svg);
  const [dx, dy] = panel.shift ?? [0, 0];
  const found = look(panel, x - dx, y - dy);
  if (!found) return;
  const marks = make("g", { class: "here", transform: `translate(${dx} ${dy})` }, ...found.marks);
  svg.append(marks);
  tip.replaceChildren(make("b", {}, found.head), ...found.rows.map(([color, name, value]) => {
    const swatch = make("i");
    swatch.style.background = color || "none";
    return make("div", {}, swatch, make("span", {}, name), make("span", {}, value));
  }));
  tip.hidden = false;
  pointed = { svg, at: [found.at[0] + dx, found.at[1] + dy] };
  put();
}

// The values stay with their place when the page moves under them.
let pointed = null;
function put() {
  const place = new DOMPoint(...pointed.at).matrixTransform(pointed.svg.getScreenCTM());
  const { offsetWidth: width, offsetHeight: height } = tip;
  const beside = place.x + 14 + width < innerWidth ? place.x + 14 : place.x - 14 - width;
  tip.style.left = `${Math.max(4, beside)}px`;
  tip.style.top = `${Math.max(4, Math.min(place.y - height / 2, innerHeight - height - 4))}px`;
}
addEventListener("scroll", () => { if (!tip.hidden) put(); }, { passive: true, capture: true });

// Places the arrow keys stop at: [across, down].
function stops(panel) {
  if (panel.cells) {
    const [, top, , bottom] = panel.cells.box, edges = across(panel);
    return [edges.slice(1).map((edge, k) => (edge + edges[k]) / 2), centres(top, bottom, panel.cells.rows.length)];
  }
  const middle = (panel.box[1] + panel.box[3]) / 2;
  if (!panel.lines) return [panel.points.map(point => point.at[0]), [middle]];
  return [[...new Set(panel.xs.flatMap(set => set.at))].filter(place => place != null).sort((a, b) => a - b), [middle]];
}

function readable(svg) {
  svg.panels ??= [...svg.querySelectorAll("[data-panel]")].map(group => Object.assign(JSON.parse(group.dataset.panel), { group }));
  const told = svg.panels.filter(panel => panel.cells || panel.points || panel.lines);
  if (!told.length || svg.classList.contains("readable")) return;
  svg.classList.add("readable");
  svg.tabIndex = 0;
  svg.setAttribute("aria-describedby", "keys");
  let [number, column, row] = [0, -1, 0];
  const follow = event => {
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const panel = told.find(({ box, shift: [dx, dy] = [0, 0] }) => box && inside(box, x - dx, y - dy));
    if (panel) show(svg, panel, x, y); else hide(svg);
  };
  svg.addEventListener("pointermove", follow);
  svg.addEventListener("pointerdown", follow);
  svg.addEventListener("pointerleave", () => hide(svg));
  svg.addEventListener("blur", () => hide(svg));
  svg.addEventListener("keydown", event => {
    const move = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (event.key === "Escape") hide(svg);
    if (!move) return;
    event.preventDefault();
    let [columns, rows] = stops(told[number] ?? told[number = 0]);
    [column, row] = [column + move[0], row + move[1]];
    const turn = column >= columns.length || row >= rows.length ? 1 : (column < 0 || row < 0) ? -1 : 0;
    if (turn) {
      number = (number + turn + told.length) % told.length;
      [columns, rows] = stops(told[number]);
      [column, row] = turn > 0 ? [0, 0] : [columns.length - 1, rows.length - 1];
    }
    const [dx, dy] = told[number].shift ?? [0, 0];
    show(svg, told[number], columns[column] + dx, rows[row] + dy);
  });
}
document.querySelectorAll(".plot > svg").forEach(readable);

// On a narrow screen the panels of a figure stand below one another, as many beside each other as are legible.
const narrow = matchMedia("(max-width: 45rem)");
// The entries of a legend above the panels, in as many rows as it takes; returns where they end.
function flow(legend, width) {
  const parts = [...legend.children].map(node => (node.removeAttribute("transform"), [node, node.getBBox()])).filter(([, box]) => box.width);
  const words = parts.filter(([node]) => node.querySelector("text")).map(([, box]) => box).sort((a, b) => a.y - b.y || a.x - b.x);
  if (words.length < 2 || words.every(box => box.x + box.width <= width - 6)) return 0;
  let [x, y, before] = [12, words[0].y, null];
  for (const word of words) {
    // What is drawn between the word before it in its row and this one is what it names.
    const from = before && Math.abs(before.y - word.y) < 2 ? before.x + before.width - 1 : -Infinity;
    const middle = box => box.y + box.height / 2;
    const mine = parts.filter(([, box]) => box.x >= from && box.x <= word.x && Math.abs(middle(box) - middle(word)) < word.height);
    const left = Math.min(...mine.map(([, box]) => box.x)), wide = word.x + word.width - left;
    if (x > 12 && x + wide > width - 6) [x, y] = [12, y + word.height + 2];
    for (const [node] of mine) node.setAttribute("transform", `translate(${x - left} ${y - word.y})`);
    [x, before] = [x + wide + 14, word];
  }
  return y + words[0].height;
}

// Numbers of a vertical axis for a panel that shares them with one to its left and will stand alone; returns the room they take.
function lend(panel, panels) {
  const [left, top, , bottom] = panel.box;
  const numbers = ({ group, box }) => [...group.querySelectorAll("text:not([transform])")].filter(text => {
    const { x, y, width, height } = text.getBBox();
    return x + width <= box[0] && y + height > box[1] && y < box[3];
  });
  const lender = panel.shares && panels.find(({ box, shares }) => !shares && box[1] === top && box[3] === bottom && box[0] < left);
  if (!lender) return 0;
  const lent = numbers(lender), most = Math.max(0, ...lent.map(text => text.getBBox().width));
  const copies = make("g", { class: "lent", transform: `translate(${left - lender.box[0]} 0)` });
  copies.append(...lent.map(text => text.cloneNode(true)));
  panel.group.append(copies);
  return most + 4;
}

function wrap(svg) {
  const groups = [...svg.querySelectorAll("[data-outer]")];
  svg.querySelectorAll(".lent").forEach(copies => copies.remove());
  svg.whole ??= svg.getAttribute("viewBox");
  const shifts = new Map();
  if (narrow.matches && groups.length > 1) {
    const boxes = [...new Set(groups.map(group => group.dataset.outer))].map(text => [text, text.split(" ").map(Number)]);
    const drawn = svg.panels?.filter(panel => panel.box) ?? [];
    for (const panel of drawn) {
      const [, box] = boxes.find(([text]) => text === panel.group.dataset.outer) ?? [];
      if (box) box[0] -= Math.max(0, lend(panel, drawn) - Math.max(0, panel.box[0] - box[0] - 4));
    }
    const head = Math.min(...boxes.map(([, box]) => box[1]));
    const whole = svg.whole.split(" ").map(Number);
    const heads = [...groups[0].parentElement.children].filter(one => !one.dataset.outer && one.getBBox().width < whole[2] - 1);
    const width = Math.max(250, ...boxes.map(([, box]) => box[2] - box[0] + 18));
    let [x, y, tallest] = [12, Math.max(head, ...heads.map(one => flow(one, width) + 8)), 0];
    for (const [text, box] of boxes) {
      const [wide, high] = [box[2] - box[0], box[3] - box[1]];
      if (x > 12 && x + wide > width) [x, y, tallest] = [12, y + tallest + 10, 0];
      shifts.set(text, [x - box[0], y - box[1]]);
      [x, tallest] = [x + wide + 16, Math.max(tallest, high)];
    }
    svg.setAttribute("viewBox", `0 0 ${width} ${y + tallest + 6}`);
    svg.style.aspectRatio = `${width} / ${y + tallest + 6}`;
  } else if (svg.whole) {
    for (const one of groups[0]?.parentElement.children ?? []) {
      if (!one.dataset.outer) one.querySelectorAll(":scope > g").forEach(part => part.removeAttribute("transform"));
    }
    svg.setAttribute("viewBox", svg.whole);
    svg.style.aspectRatio = "";
  }
  svg.classList.toggle("wrapped", shifts.size > 0);
  for (const group of groups) {
    const shift = shifts.get(group.dataset.outer);
    if (shift) group.setAttribute("transform", `translate(${shift.join(" ")})`); else group.removeAttribute("transform");
    const panel = svg.panels?.find(one => one.group === group);
    if (panel) panel.shift = shift;
  }
}
const wrapAll = () => document.querySelectorAll(".plot > svg").forEach(wrap);
narrow.addEventListener("change", wrapAll);
// What is folded away has no size yet.
document.addEventListener("toggle", ({ target }) => target.open && target.querySelectorAll?.(".plot > svg").forEach(wrap), true);
wrapAll();
