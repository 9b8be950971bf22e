// Views of a result beside its overview: charts drawn from the values in the page, turned by slider and choice.
const words = name => name.replace(/_2$/, "").replaceAll("_", " ");

// The value at a place {dimension: position} of a variable whose values lie flat.
function value(variable, place) {
  const index = variable.dims.reduce((at, dim) => at * dim.labels.length + (place[dim.name] ?? 0), 0);
  return variable.values[index];
}

function choice(label, options, change) {
  const select = make("select", {}, ...options.map((name, k) => make("option", { value: k }, name)));
  select.addEventListener("change", () => change(+select.value));
  return make("label", {}, make("span", {}, label), select);
}

function slider(dim, start, change) {
  const last = dim.labels.length - 1;
  const range = make("input", { type: "range", min: 0, max: last, step: 1, value: start });
  const output = make("output", {}, dim.labels[start]);
  const play = make("button", { type: "button", "aria-label": `Play all ${dim.name}s` }, "▶");
  let timer = null;
  const go = at => {
    range.value = at;
    range.setAttribute("aria-valuetext", `${dim.name} ${dim.labels[at]}`);
    output.textContent = dim.labels[at];
    change(at);
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "▶";
    play.setAttribute("aria-label", `Play all ${dim.name}s`);
  };
  range.addEventListener("input", () => { stop(); go(+range.value); });
  play.addEventListener("click", () => {
    if (timer) return stop();
    play.textContent = "❚❚";
    play.setAttribute("aria-label", "Pause");
    go(+range.value === last ? 0 : +range.value + 1);
    timer = setInterval(() => play.isConnected && +range.value < last ? go(+range.value + 1) : stop(), 650);
  });
  return make("div", { class: "slider" }, play, make("label", {}, make("span", {}, dim.name), range), output);
}

function ticks([low, high], count = 6) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(k => k * power).find(size => size >= rough);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, k) => +((first + k) * step).toPrecision(12));
}

// Labels of places that keep `room` from each other, the first and the last among them.
function thin(places, room) {
  const kept = [];
  places.forEach((place, k) => {
    if (!kept.length || place - places[kept.at(-1)] >= room(k)) kept.push(k);
  });
  const last = places.length - 1;
  while (kept.length > 1 && kept.at(-1) !== last && places[last] - places[kept.at(-1)] < room(last)) kept.pop();
  return kept.at(-1) === last ? kept : [...kept, last];
}
const wide = labels => k => 12 + 7 * Math.min(16, labels[k].length);
const short = label => label.replace(/^-(?=[\d.])/, "−").replace(/^(.{15}).{2,}$/u, "$1…");
const write = (x, y, text, anchor) => make("text", { x, y, "text-anchor": anchor }, text);

// Round numbers for an axis of many evenly measured ones; else the values themselves are its labels.
function round(dim, from, to) {
  const numbers = dim.labels.map(Number), [low, high] = [numbers[0], numbers.at(-1)], middle = numbers.length >> 1;
  if (!dim.at || numbers.length < 9 || Math.abs(dim.at[middle] - (numbers[middle] - low) / (high - low)) > 0.01) return null;
  return ticks([low, high], (to - from) / 90).map(tick => [from + (to - from) * (tick - low) / (high - low), shown(tick)]);
}

// The x axis, where each label lies, and the frame of a chart.
function frame(svg, box, dim, inset) {
  const [left, , right, bottom] = box;
  const [from, to, last] = [left + inset, right - inset, dim.labels.length - 1];
  const steps = dim.name === "step" && last && dim.labels.map(Number);
  const at = steps ? steps.map(step => along(step, [steps[0], steps[last]], time)) : dim.at;
  const places = dim.labels.map((_, k) => from + (to - from) * (at ? at[k] : last ? k / last : 0.5));
  for (const [at, label] of !steps && round(dim, from, to) || thin(places, wide(dim.labels)).map(k => [places[k], short(dim.labels[k])])) {
    svg.append(make("line", { class: "tick", x1: at, x2: at, y1: bottom, y2: bottom + 4 }));
    svg.append(write(at, bottom + 17, label, "middle"));
  }
  svg.append(make("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
  svg.append(write((from + to) / 2, bottom + 34, words(dim.name), "middle"));
  return places;
}

function lines(variable, view, place, width) {
  const height = 300, box = [52, 14, width - 14, height - 44];
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}` });
  const [low, high] = variable.limits;
  const y = number => box[3] - (number - low) / (high - low || 1) * (box[3] - box[1]);
  for (const tick of ticks(variable.limits)) {
    svg.append(make("line", { class: tick ? "grid" : "grid zero", x1: box[0], x2: box[2], y1: y(tick), y2: y(tick) }));
    svg.append(write(box[0] - 8, y(tick) + 4, shown(tick), "end"));
  }
  const x = variable.dims.find(dim => dim.name === view.x);
  const places = frame(svg, box, x, 16);
  const series = variable.dims.find(dim => dim.name === view.series);
  const drawn = (series?.labels ?? [words(variable.name)]).map((name, s) => {
    const color = `var(--c${s % 8})`;
    const numbers = x.labels.map((_, k) => value(variable, { ...place, [view.series]: s, [x.name]: k }));
    const points = numbers.map((number, k) => number == null ? null : [places[k], y(number)]);
    const path = points.map((point, k) => point && `${points[k - 1] && x.labels[k] !== "all" ? "L" : "M"}${point.map(at => at.toFixed(1))}`).filter(Boolean).join("");
    const line = make("g", {}, make("path", { d: path || "M0 0", class: "curve" }));
    if (points.length <= 30) line.append(...points.filter(Boolean).map(([cx, cy]) => make("circle", { cx, cy, r: 3 })));
    line.style.color = color;
    svg.append(line);
    return { name, color, x: 0, y: numbers, at: points.map(point => point && point[1]) };
  });
  svg.panels = [{ box, x: words(x.name), y: words(variable.name), xs: [{ at: places, names: x.labels }], lines: drawn }];
  const key = series ? drawn.map(({ name, color }) => {
    const swatch = make("i");
    swatch.style.background = color;
    return make("span", {}, swatch, name);
  }) : [];
  return [svg, key];
}

function matrix(variable, view, place, width) {
  const [rows, columns] = [view.rows, view.columns].map(name => variable.dims.find(dim => dim.name === name));
  const margin = 14 + Math.min(120, 7 * Math.max(...rows.labels.map(label => short(label).length)));
  const left = 20 + margin, cell = Math.min(42, (width - left - 8) / columns.labels.length, 420 / rows.labels.length);
  const box = [left, 6, left + cell * columns.labels.length, 6 + cell * rows.labels.length];
  const svg = make("svg", { viewBox: `0 0 ${width} ${box[3] + 42}` });
  const [low, high] = variable.limits, most = Math.max(Math.abs(low), Math.abs(high)) || 1;
  const table = rows.labels.map((_, r) => columns.labels.map((_, c) => value(variable, { ...place, [rows.name]: r, [columns.name]: c })));
  table.forEach((numbers, r) => numbers.forEach((number, c) => {
    const [x, y] = [box[0] + c * cell, box[1] + r * cell];
    const square = make("rect", { x, y, width: cell, height: cell, class: number == null ? "none" : "cell" });
    if (number != null) {
      const share = low < 0 ? Math.abs(number) / most : (number - low) / (high - low || 1);
      square.style.fill = `color-mix(in oklab, var(--${number < 0 ? "below" : "above"}) ${(100 * share).toFixed(1)}%, var(--nil))`;
    }
    svg.append(square);
  }));
  for (const k of thin(rows.labels.map((_, r) => r * cell), () => 14)) svg.append(write(left - 7, box[1] + (k + 0.5) * cell + 4, short(rows.labels[k]), "end"));
  for (const k of thin(columns.labels.map((_, c) => c * cell), wide(columns.labels.map(short)))) svg.append(write(left + (k + 0.5) * cell, box[3] + 16, short(columns.labels[k]), "middle"));
  svg.append(write((box[0] + box[2]) / 2, box[3] + 34, words(columns.name), "middle"));
  const cells = { box, rows: rows.labels, columns: columns.labels, values: table, what: words(variable.name) };
  svg.panels = [{ box, x: words(columns.name), y: words(rows.name), cells }];
  const ends = low < 0 ? [-most, most] : [low, high];
  const ramp = make("i", { class: low < 0 ? "ramp both" : "ramp" });
  return [svg, [make("span", {}, shown(+ends[0].toPrecision(2)), ramp, shown(+ends[1].toPrecision(2)))]];
}

function explore(figure, held) {
  const title = figure.getAttribute("aria-label"), overview = figure.querySelector(".plot");
  const stage = make("div", { class: "stage", hidden: "" });
  const tabs = make("fieldset", { class: "views" }, make("legend", { class: "unseen" }, `View of ${title}`));
  overview.before(tabs);
  overview.after(stage);
  [null, ...held.views].forEach((view, k) => {
    const radio = make("input", { type: "radio", name: `view-${figure.id}`, ...(k ? {} : { checked: "" }) });
    radio.addEventListener("change", () => open(view));
    tabs.append(make("label", {}, radio, make("span", {}, view ? view.name : "Overview")));
  });

  function open(view, variable = view && held.variables[view.variables[0]]) {
    overview.hidden = !!view;
    stage.hidden = !view;
    if (!view) return stage.replaceChildren();
    const place = {}, controls = make("div", { class: "controls" }), canvas = make("div", { class: "canvas" }), key = make("p", { class: "key" });
    const draw = () => {
      const [svg, legend] = (view.rows ? matrix : lines)(variable, view, place, Math.max(320, canvas.clientWidth));
      const where = Object.entries(place).map(([name, k]) => `${name} ${variable.dims.find(dim => dim.name === name).labels[k]}`);
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", [`${title}: ${words(variable.name)}, ${view.name.toLowerCase()}`, ...where].join(", "));
      readable(svg);
      tip.hidden = true;
      canvas.replaceChildren(svg);
      key.replaceChildren(make("b", {}, words(variable.name)), ...legend);
    };
    if (view.variables.length > 1) {
      const list = choice("show", view.variables.map(words), k => { open(view, held.variables[view.variables[k]]); stage.querySelector("select").focus(); });
      list.querySelector("select").value = view.variables.indexOf(variable.name);
      controls.append(list);
    }
    for (const dim of variable.dims) {
      if ([view.x, view.series, view.rows, view.columns, view.slider].includes(dim.name)) continue;
      // The last layer is the whole network.
      place[dim.name] = dim.labels.at(-1) === "all" ? dim.labels.length - 1 : 0;
      if (dim.labels.length < 2) continue;
      const list = choice(words(dim.name), dim.labels, k => { place[dim.name] = k; draw(); });
      list.querySelector("select").value = place[dim.name];
      controls.append(list);
    }
    const time = variable.dims.find(dim => dim.name === view.slider);
    if (time) {
      place[time.name] = time.labels.length - 1;
      controls.append(slider(time, place[time.name], k => { place[time.name] = k; draw(); }));
    }
    stage.replaceChildren(controls, key, canvas);
    stage.redraw = draw;
    draw();
  }
}

for (const data of document.querySelectorAll("script.held")) explore(data.closest("figure"), JSON.parse(data.textContent));
addEventListener("resize", () => document.querySelectorAll(".stage:not([hidden])").forEach(stage => stage.redraw?.()));
