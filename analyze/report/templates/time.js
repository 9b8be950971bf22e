// One switch for the time axis of all figures of the page. A figure carries its axis in data-panel, drawn on one
// scale; on the other one, what lies in it is moved along. Without this script the scale of the run stays.
const toAxis = { linear: step => step, log: step => step > 1 ? 10 / 9 + Math.log10(step) : step * 10 / 9 };
const fromAxis = { linear: at => at, log: at => at > 10 / 9 ? 10 ** (at - 10 / 9) : at * 0.9 };
const along = (step, [low, high], scale) => {
  const [from, to] = [low, high].map(toAxis[scale]);
  return (toAxis[scale](step) - from) / (to - from || 1);
};

function retime(svg) {
  if (!svg.panels || svg.timed === time) return;
  svg.timed = time;
  for (const panel of svg.panels.filter(one => one.time)) {
    const { time: { scale, ...ends }, box: [left, , right] } = panel;
    const moved = x => {
      // Spines and lines across the axes end at its edges on either scale.
      if (time === scale || x == null || Math.min(Math.abs(x - left), Math.abs(x - right)) < 0.06) return x;
      const [low, high] = ends[scale].map(toAxis[scale]);
      const step = fromAxis[scale](low + (high - low) * (x - left) / (right - left));
      return +(left + (right - left) * along(step, ends[time], time)).toFixed(2);
    };
    panel.drawn ??= marks(panel.group);
    for (const [node, name, first] of panel.drawn) {
      const text = name === "d" ? first.replace(/(-?[\d.]+)[ ,](-?[\d.]+)/g, (_, x, y) => `${moved(+x)} ${y}`) : moved(+first);
      node.setAttribute(name, text);
    }
    panel.first ??= structuredClone({ xs: panel.xs, points: panel.points, edges: panel.map?.edges });
    panel.xs?.forEach((set, k) => { set.at = panel.first.xs[k].at.map(moved); });
    panel.points?.forEach((point, k) => { point.at[0] = moved(panel.first.points[k].at[0]); });
    number(panel, ends[time]);
    if (!panel.map) continue;
    panel.map.edges = panel.first.edges.map(moved);
    stretch(panel);
  }
}

// What lies in the axes at places of time: [node, attribute, its value as drawn].
function marks(group) {
  const drawn = [], shapes = new Set();
  for (const node of group.querySelectorAll("path, use")) {
    if (node.closest(".time, .legend") || node.closest("defs")) continue;
    if (node.localName === "path") shapes.add(node);
    else if (+node.getAttribute("x")) drawn.push([node, "x", node.getAttribute("x")]);
    // A shape that is used where it was defined lies at its own places.
    else shapes.add(document.getElementById((node.getAttribute("xlink:href") ?? node.getAttribute("href")).slice(1)));
  }
  // A line of which nothing is defined has no shape.
  return [...drawn, ...[...shapes].filter(node => node?.hasAttribute("d")).map(node => [node, "d", node.getAttribute("d")])];
}

// Ticks and their numbers: as drawn, or round ones.
function number({ group, box: [left, , right], time: { scale } }, ends) {
  const axis = group.querySelector(".time");
  axis.querySelectorAll("defs").forEach(shapes => axis.before(shapes)); // other axes refer to them too
  axis.drawn ??= [...axis.children];
  if (time === scale) return axis.replaceChildren(...axis.drawn);
  const made = axis.drawn.filter(one => one.querySelector("use")), model = made[0];
  const rest = axis.drawn.filter(one => !made.includes(one));
  if (!model) return;
  const at = step => left + (right - left) * along(step, ends, time);
  const wide = 5 * shown(Math.round(ends[1])).length + 8, most = Math.max(2, Math.min(7, Math.floor((right - left) / wide)));
  const powers = parts => [0, ...Array.from({ length: 15 }, (_, k) => parts.map(part => part * 10 ** k)).flat()];
  const within = steps => steps.filter(step => step >= ends[0] && step <= ends[1]);
  const alone = within(powers([1]));
  const round = within(time !== "log" ? ticks(ends, most) : alone.length > 2 ? alone : powers([1, 2, 5]));
  let last = -Infinity;
  axis.replaceChildren(...round.map(step => {
    const tick = model.cloneNode(true), x = at(step).toFixed(2);
    tick.querySelectorAll("use").forEach(node => node.setAttribute("x", x));
    tick.querySelectorAll("text").forEach(text => {
      const clear = +x - last >= wide * (time === "log" ? 0.8 : 1);
      if (!clear) return text.remove();
      [last, text.textContent] = [+x, step.toLocaleString("en", { maximumFractionDigits: 6 })];
      text.setAttribute("x", x);
    });
    return tick;
  }), ...rest);
}

// A map over time again, from its cells: each column as wide as the time it stands for.
function stretch({ group, box: [left, top, right, bottom], map }) {
  const image = group.querySelector("image"), cells = new Image(), { edges, png } = map;
  if (!image) return;
  cells.onload = () => {
    if (map.edges !== edges) return;
    const wide = Math.round(3 * (right - left)), at = edges.map(x => Math.round((x - left) / (right - left) * wide));
    const canvas = Object.assign(document.createElement("canvas"), { width: wide, height: cells.height });
    const paint = canvas.getContext("2d");
    paint.imageSmoothingEnabled = false;
    for (let k = 0; k < cells.width; k++) paint.drawImage(cells, k, 0, 1, cells.height, at[k], 0, at[k + 1] - at[k], cells.height);
    for (const name of ["xlink:href", "transform"]) image.removeAttribute(name);
    image.style.imageRendering = "pixelated";
    const drawn = { href: canvas.toDataURL(), x: left, y: top, width: right - left, height: bottom - top, preserveAspectRatio: "none" };
    for (const [name, value] of Object.entries(drawn)) image.setAttribute(name, value);
  };
  cells.src = `data:image/png;base64,${png}`;
}

let time = "linear";
{
  const drawn = [...document.querySelectorAll(".plot > svg")].filter(svg => svg.panels?.some(panel => panel.time));
  if (drawn.length) {
    time = drawn[0].panels.find(panel => panel.time).time.scale;
    const near = new Set();
    // Figures out of sight wait until they are looked at.
    const sight = new IntersectionObserver(seen => seen.forEach(({ target, isIntersecting }) => {
      if (isIntersecting) retime(target);
      near[isIntersecting ? "add" : "delete"](target);
    }), { rootMargin: "50%" });
    for (const svg of drawn) {
      if (svg.panels.every(panel => !panel.time || panel.time.scale === time)) svg.timed = time;
      sight.observe(svg);
    }
    const change = event => {
      time = event.target.value;
      tip.hidden = true;
      document.querySelectorAll(".here").forEach(mark => mark.remove());
      near.forEach(retime);
      document.querySelectorAll(".stage:not([hidden])").forEach(stage => stage.redraw?.());
    };
    const box = make("fieldset", { class: "scale" }, make("legend", {}, "Time axis"));
    for (const [scale, word] of [["linear", "linear"], ["log", "logarithmic"]]) {
      const radio = make("input", { type: "radio", name: "time", value: scale, ...(scale === time ? { checked: "" } : {}) });
      radio.addEventListener("change", change);
      box.append(make("label", {}, radio, make("span", {}, word)));
    }
    document.querySelector("#topics").prepend(box);
    addEventListener("beforeprint", () => drawn.forEach(retime));
  }
}
