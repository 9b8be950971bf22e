"use strict";

const PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A7A7A"];
const RAMP = [[78, 84, 200], [28, 132, 168], [60, 150, 80], [184, 132, 20], [208, 84, 40]]; // numbers; on light and dark paper
const WIDTH = 400, HEIGHT = 220, LEFT = 50, RIGHT = 12, TOP = 10, BOTTOM = 38;
const EVERY = 1500; // milliseconds between looking for news
const SHOWN = 24; // groups that a legend names, and lines that a tip does

const only = (location.pathname.match(/^\/runs\/([^/]+)$/) || [])[1];
const find = id => document.getElementById(id);
const known = {}; // address to the last answer and its tag
const hidden = new Set();
let state = null, charts = [], skew = 0, lit = null;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function draw(tag, attributes = {}, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text) node.textContent = text;
  return node;
}

async function ask(address) {
  const before = known[address];
  const answer = await fetch(address, before ? {headers: {"If-None-Match": before.tag}, cache: "no-store"} : {cache: "no-store"});
  const date = Date.parse(answer.headers.get("Date") || "");
  if (date) skew = date - Date.now();
  if (answer.status === 304) return {content: before.content, fresh: false};
  if (!answer.ok) throw new Error(`${answer.status}`);
  const content = await answer.json();
  for (const other of Object.keys(known)) if (other.split("?")[0] === address.split("?")[0]) delete known[other];
  known[address] = {tag: answer.headers.get("ETag"), content};
  return {content, fresh: true};
}

// ---- words and numbers ----

function figure(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value;
  const size = Math.abs(value);
  if (size >= 1e5 || (size && size < 1e-3)) return value.toExponential(1).replace("e+", "e").replace("-", "−");
  return String(Number(value.toPrecision(3))).replace("-", "−");
}

const whole = value => value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en");

function ago(seconds) {
  if (seconds < 2) return "now";
  for (const [unit, size] of [["s", 1], ["min", 60], ["h", 3600], ["d", 86400]].reverse())
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
  return "now";
}

const since = run => run.last === null || run.last === undefined ? null : Math.max(0, (Date.now() + skew) / 1000 - run.last);
const silent = run => run.state === "recording" && since(run) !== null && since(run) > run.silent_after;
const stateOf = run => silent(run) ? "silent" : run.state || "waiting";

function counted(runs) {
  const counts = {};
  for (const run of runs) counts[stateOf(run)] = (counts[stateOf(run)] || 0) + 1;
  const told = Object.entries(counts).map(([name, count]) => `${count} ${name}`).join(", ");
  return runs.length === 1 ? told : `${runs.length} runs${told ? `: ${told}` : ""}`;
}

// ---- colours ----

function mixed(place) {
  const at = place * (RAMP.length - 1), k = Math.min(Math.floor(at), RAMP.length - 2);
  return `rgb(${RAMP[k].map((from, c) => Math.round(from + (at - k) * (RAMP[k + 1][c] - from)))})`;
}

function colours(groups) {
  const numbers = groups.length > 1 && groups.every(group => typeof group === "number");
  const order = numbers ? [...groups].sort((a, b) => a - b) : groups;
  const many = order.length > PALETTE.length;
  return new Map(order.map((group, k) => [group, numbers || many ? mixed(k / (order.length - 1)) : PALETTE[k]]));
}

const by = () => only ? "" : find("by").value; // a browser may bring back what was chosen before
const groupOf = run => by() ? run.attributes?.[by()] ?? "not said" : run.key;
const mine = () => state.runs.filter(run => !only || run.key === only);

function palette() {
  const runs = state.runs; // of all runs, so that a run keeps its colour on its own page
  return colours(by() ? [...new Set(runs.map(groupOf))] : runs.map(run => run.key));
}

// ---- the table ----

function row(run, colour) {
  const box = make("input", {type: "checkbox", "aria-label": `draw ${run.name}`});
  box.checked = !hidden.has(run.key);
  box.addEventListener("change", () => { box.checked ? hidden.delete(run.key) : hidden.add(run.key); show(); });
  const name = make("th", {scope: "row"}, make("span", {class: "swatch"}));
  name.firstChild.style.background = colour;
  name.append(only ? run.name : make("a", {href: `/runs/${run.key}`}, run.name));
  const kind = stateOf(run);
  const told = kind === "silent" ? `silent for ${ago(since(run)).replace(" ago", "")}` : kind;
  const cells = [make("td", {}, make("span", {class: `state ${kind}`}, told))];
  if (run.note) cells[0].append(make("div", {class: "note"}, run.note));
  if (!only) cells.unshift(make("td", {}, box));
  const report = make("td");
  if (run.updates !== undefined) report.append(make("a", {href: `/runs/${run.key}/report.html`}, "report"));
  if (run.computing) report.append(make("div", {class: "note"}, "computing …"));
  cells.push(report);
  const numbers = [whole(run.updates), whole(run.epochs), figure(run.loss), figure(run.train_error), figure(run.test_error), figure(run.gap), whole(run.snapshots)];
  cells.splice(only ? 0 : 1, 0, name);
  cells.push(...numbers.map(text => make("td", {class: "number"}, text)));
  if (kind === "recording" && run.pace) cells.at(-numbers.length).append(make("div", {class: "note"}, `${figure(run.pace)} a second`));
  cells.push(make("td", {class: "number", "data-last": run.key}, since(run) === null ? "–" : ago(since(run))));
  for (const attribute of varied()) cells.push(make("td", {}, String(run.attributes?.[attribute] ?? "–")));
  const line = make("tr", hidden.has(run.key) ? {class: "off"} : {}, ...cells);
  line.addEventListener("pointerenter", () => light(groupOf(run)));
  line.addEventListener("pointerleave", () => light(null));
  return line;
}

const varied = () => state.varied.slice(0, 4);

function table() {
  const numbers = ["updates", "epochs", "loss", "train error", "test error", "gap", "snapshots", "last update"];
  const told = [...(only ? [] : ["draw"]), "run", "state", "report", ...numbers];
  const heads = [...told, ...varied().map(name => told.includes(name) ? `${name} (setting)` : name)];
  const named = heads.map(head => make("th", {scope: "col", class: numbers.includes(head) ? "number" : ""}, head));
  find("runs").tHead.replaceChildren(make("tr", {}, ...named));
  const shades = palette();
  const focus = document.activeElement?.getAttribute("aria-label");
  find("runs").tBodies[0].replaceChildren(...mine().map(run => row(run, shades.get(groupOf(run)))));
  if (focus) document.querySelector(`[aria-label="${CSS.escape(focus)}"]`)?.focus();
}

// ---- the charts ----

function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(k => k * power).find(size => size >= rough);
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k++) found.push(k * step);
  return found;
}

function decades(low, high) {
  const found = [];
  for (let k = Math.floor(Math.log10(low)); k <= Math.ceil(Math.log10(high)); k++) found.push(10 ** k);
  const inside = found.filter(value => value >= low && value <= high);
  return inside.length >= 2 ? inside : [low, high];
}

function timesInLog(first, last) {
  const tens = last >= 1 ? decades(Math.max(first, 1), last) : [last];
  return first < 1 ? [...new Set([first, ...tens])] : [...new Set(tens)];
}

function scale(low, high, log, from, to) {
  const map = log ? value => Math.log10(value) : value => value;
  const first = map(low), span = map(high) - first || 1;
  return value => from + (map(value) - first) / span * (to - from);
}

function path(points, x, y) {
  let text = "", pen = "M";
  for (const [at, value] of points) {
    if (value === null) { pen = "M"; continue; }
    text += `${pen}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = "L";
  }
  return text;
}

function area(line, x, y) {
  const upper = line.x.map((at, k) => [at, line.high[k]]).filter(([, value]) => value !== null);
  const lower = line.x.map((at, k) => [at, line.low[k]]).filter(([, value]) => value !== null).reverse();
  return upper.length > 1 ? `${path([...upper, ...lower], x, y)}Z` : "";
}

function chart(one, shades) {
  const keys = new Set(mine().filter(run => !hidden.has(run.key)).map(run => run.key));
  const groups = new Set(mine().filter(run => keys.has(run.key)).map(groupOf));
  const lines = one.lines.filter(line => line.key ? keys.has(line.key) : groups.has(line.group));
  const values = lines.flatMap(line => [...line.y, ...(line.low || []), ...(line.high || [])]).filter(value => value !== null);
  const places = lines.flatMap(line => line.x).filter(at => at !== null);
  if (!values.length || !places.length) return null;
  const inLog = one.log && values.every(value => value > 0) && Math.max(...values) > 20 * Math.min(...values);
  const timeLog = find("log").checked;
  const moved = at => timeLog ? at + 1 : at; // so that step 0 has a place
  let low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
  const pad = inLog ? 0 : 0.05 * (high - low) || 0.05 * Math.max(Math.abs(high), 1e-3);
  low -= pad; high += pad;
  const first = moved(places.reduce((a, b) => Math.min(a, b))), last = moved(places.reduce((a, b) => Math.max(a, b)));
  const xOf = scale(first, last > first ? last : first + 1, timeLog, LEFT, WIDTH - RIGHT);
  const x = at => xOf(moved(at)), y = scale(low, high, inLog, HEIGHT - BOTTOM, TOP);
  const svg = draw("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${one.title}, ${lines.length} lines`});
  for (const value of inLog ? decades(low, high) : ticks(low, high, 6)) {
    svg.append(draw("line", {class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value)}));
    svg.append(draw("text", {x: LEFT - 6, y: y(value) + 4.5, "text-anchor": "end"}, figure(value)));
  }
  const marks = timeLog ? timesInLog(first - 1, last - 1) : last > first ? ticks(first, last, 5).filter(Number.isInteger) : [first];
  for (const at of marks) svg.append(draw("text", {x: x(at), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle"}, whole(at)));
  svg.append(draw("text", {x: WIDTH - RIGHT, y: HEIGHT - 2, "text-anchor": "end"}, find("x").value));
  for (const line of lines) {
    const group = line.key || line.group, colour = shades.get(group);
    if (line.low && line.n > 1) {
      const band = draw("path", {class: "band", d: area(line, x, y)});
      band.style.fill = colour;
      band.group = group;
      svg.append(band);
    }
    const curve = draw("path", {class: "curve", d: path(line.x.map((at, k) => [at, line.y[k]]), x, y)});
    curve.style.stroke = colour;
    curve.group = group;
    svg.append(curve);
    if (line.x.length <= 20) for (const [k, at] of line.x.entries()) if (line.y[k] !== null) {
      const dot = draw("circle", {cx: x(at), cy: y(line.y[k]), r: 2.2});
      dot.style.fill = colour;
      dot.group = group;
      svg.append(dot);
    }
  }
  const box = make("figure", {"data-chart": one.name}, make("figcaption", {}, one.title), svg);
  pointed(box, svg, lines, shades, x, places);
  return box;
}

// Values under the pointer: of the nearest place in time that any line has.
function pointed(box, svg, lines, shades, x, places) {
  const distinct = [...new Set(places)].sort((a, b) => a - b);
  const cursor = draw("line", {class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM});
  const tip = make("ul", {class: "tip"});
  svg.addEventListener("pointermove", event => {
    const at = (event.clientX - svg.getBoundingClientRect().left) / svg.getBoundingClientRect().width * WIDTH;
    const near = distinct.reduce((best, place) => Math.abs(x(place) - at) < Math.abs(x(best) - at) ? place : best);
    cursor.setAttribute("x1", x(near));
    cursor.setAttribute("x2", x(near));
    const told = [];
    for (const line of lines) {
      const k = line.x.reduce((best, place, i) => Math.abs(place - near) < Math.abs(line.x[best] - near) ? i : best, 0);
      if (line.y[k] === null || Math.abs(x(line.x[k]) - x(near)) > 12) continue;
      const swatch = make("span", {class: "swatch"});
      swatch.style.background = shades.get(line.key || line.group);
      const spread = line.low && line.n > 1 ? ` (${figure(line.low[k])} … ${figure(line.high[k])})` : "";
      told.push([line.y[k], make("li", {}, swatch, `${said(line.group)}  ${figure(line.y[k])}${spread}`)]);
    }
    told.sort((a, b) => b[0] - a[0]);
    tip.replaceChildren(make("li", {}, `${find("x").value} ${whole(near)}`), ...told.slice(0, SHOWN).map(([, item]) => item));
    tip.style.right = at > WIDTH / 2 ? "auto" : "0";
    tip.style.left = at > WIDTH / 2 ? `${LEFT / WIDTH * 100}%` : "auto";
    svg.append(cursor);
    box.append(tip);
  });
  svg.addEventListener("pointerleave", () => { cursor.remove(); tip.remove(); });
}

const said = group => by() ? `${by()} ${group}` : String(group);

function light(group) {
  lit = group;
  for (const node of document.querySelectorAll("#charts .curve, #charts .band, #charts circle"))
    node.classList.toggle("dim", lit !== null && node.group !== lit);
}

function legend(shades) {
  if (!by()) { find("legend").replaceChildren(); return; }
  const items = [...shades].slice(0, SHOWN).map(([group, colour]) => {
    const swatch = make("span", {class: "swatch"});
    swatch.style.background = colour;
    const item = make("li", {}, swatch, `${by()} ${group}`);
    item.addEventListener("pointerenter", () => light(group));
    item.addEventListener("pointerleave", () => light(null));
    return item;
  });
  find("legend").replaceChildren(...items);
}

// ---- the page ----

function choices() {
  const names = [...new Set([...state.varied, ...state.attributes])].filter(name => !["seed", "random_seed"].includes(name));
  const wanted = ["", ...names.filter(name => state.varied.includes(name))];
  const select = find("by");
  if ([...select.options].map(option => option.value).join() === wanted.join()) return;
  const chosen = select.value;
  select.replaceChildren(...wanted.map(name => make("option", {value: name}, name || "run")));
  select.value = wanted.includes(chosen) ? chosen : "";
}

function show() {
  const runs = mine();
  find("place").textContent = only ? runs[0]?.name ?? "This run is not here any more" : state.place;
  document.title = `${only ? runs[0]?.name ?? "gone" : state.place} · tracer watch`;
  find("count").textContent = runs.length ? counted(runs) : only ? "It was moved or removed." : "No runs yet: they appear when their recording begins.";
  find("trouble").textContent = state.trouble;
  find("trouble").hidden = !state.trouble;
  table();
  const shades = palette();
  legend(shades);
  const drawn = charts.map(one => chart(one, shades)).filter(one => one);
  find("empty").hidden = drawn.length > 0;
  find("charts").replaceChildren(...drawn);
  light(lit);
}

async function look() {
  try {
    const first = await ask("/state.json");
    state = first.content;
    choices();
    const second = await ask(`/curves.json?by=${encodeURIComponent(by())}&x=${find("x").value}`);
    charts = second.content;
    document.body.classList.remove("lost");
    if (first.fresh || second.fresh) show();
    else times();
  } catch (error) {
    find("trouble").textContent = "No answer: tracer watch has ended, or the connection is lost. This page goes on when it is back.";
    find("trouble").hidden = false;
    for (const address of Object.keys(known)) delete known[address];
  }
}

function times() { // what grows old without news
  for (const run of mine()) {
    const cell = document.querySelector(`[data-last="${run.key}"]`);
    if (cell && since(run) !== null) cell.textContent = ago(since(run));
    if (cell && silent(run) && !cell.parentNode.querySelector(".silent")) return show();
  }
}

async function forever() {
  await look();
  setTimeout(forever, EVERY);
}

for (const name of ["by", "x"]) find(name).addEventListener("change", look);
find("log").addEventListener("change", () => show());
if (only) find("by").closest("label").hidden = true;
forever();
