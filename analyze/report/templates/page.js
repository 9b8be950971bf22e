// Where the reader is, and what can be scrolled by key. Without this script the page shows everything.
"use strict";
document.documentElement.classList.add("js");

const SVG = "http://www.w3.org/2000/svg";
// Text given as a child is only ever text: names come from archives of strangers.
function make(tag, attributes = {}, ...children) {
  const drawn = ["svg", "g", "line", "rect", "path", "circle", "text"].includes(tag);
  const node = drawn ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
const shown = value => value == null ? "undefined" : String(+value.toPrecision(4)).replace("-", "−");

{
  const nav = document.querySelector("nav");
  const links = new Map([...nav.querySelectorAll("a")].map(link => [link.getAttribute("href").slice(1), link]));
  // A short list of contents is shown whole; of a long one the current topic.
  const topics = links.size > 24 ? [...nav.querySelectorAll("details")] : [];
  const headings = [...links.keys()].map(id => document.getElementById(id)).filter(Boolean);
  const menu = nav.querySelector("button");

  // Chapters are folded; where a link, the address or a search leads into one, it opens.
  const chapters = [...document.querySelectorAll("details.chapter")];
  for (const chapter of chapters) chapter.open = false;
  function unfold() {
    const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let box = place?.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
    if (place?.closest(".chapter")) place.scrollIntoView();
  }
  addEventListener("hashchange", unfold);
  nav.addEventListener("click", event => event.target.closest("a") && setTimeout(unfold));
  unfold();
  if (links.size > 12) {
    const search = make("input", { type: "search", placeholder: "Search", "aria-label": "Search metrics" });
    const about = new Map([...links].map(([id, link]) => {
      const text = document.getElementById(id)?.closest("article")?.querySelector(".meaning")?.textContent ?? "";
      return [link, `${id} ${link.textContent} ${text}`.toLowerCase()];
    }));
    const none = make("p", { role: "status", class: "none", hidden: "" }, "Nothing is called that, or does that.");
    const topics = [...nav.querySelectorAll("details")];
    let before = null;
    search.addEventListener("input", () => {
      const sought = search.value.trim().toLowerCase();
      if (sought) before ??= topics.map(topic => topic.open);
      for (const [link, text] of about) link.parentElement.hidden = !text.includes(sought);
      for (const topic of topics) {
        topic.hidden = !topic.querySelector("li:not([hidden])");
        topic.open = sought ? true : before?.[topics.indexOf(topic)] ?? topic.open;
      }
      if (!sought) before = null;
      none.hidden = topics.some(topic => !topic.hidden);
    });
    search.addEventListener("keydown", event => {
      if (event.key === "Enter") nav.querySelector("li:not([hidden]) a")?.click();
    });
    nav.querySelector("#topics").prepend(search, none);
  }
  menu.addEventListener("click", () => toggle(menu.getAttribute("aria-expanded") !== "true"));
  nav.addEventListener("click", event => event.target.closest("a") && toggle(false));
  nav.addEventListener("keydown", event => {
    if (event.key === "Escape" && menu.getAttribute("aria-expanded") === "true") { toggle(false); menu.focus(); }
  });

  function toggle(open) {
    menu.setAttribute("aria-expanded", open);
    nav.classList.toggle("open", open);
  }

  let current = null;
  function follow() {
    const above = headings.filter(heading => heading.checkVisibility() && heading.getBoundingClientRect().top < 140);
    const end = scrollY > 0 && innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
    const link = links.get((end ? headings.at(-1) : above.at(-1) ?? headings[0]).id);
    if (link === current) return;
    current?.removeAttribute("aria-current");
    current = link;
    current.setAttribute("aria-current", "location");
    menu.querySelector("b").textContent = current.textContent;
    const topic = current.closest("details");
    // A topic the reader has opened stays open.
    for (const one of topics) if (one === topic || !one.matches(".kept")) one.open = one === topic;
    const [inside, place] = [nav.getBoundingClientRect(), current.getBoundingClientRect()];
    if (place.top < inside.top || place.bottom > inside.bottom - 40) nav.scrollTop += place.top - inside.top - 200;
  }
  for (const topic of topics) {
    topic.querySelector("summary").addEventListener("click", () => topic.classList.toggle("kept", !topic.open));
  }

  let waiting = false;
  addEventListener("scroll", () => {
    if (!waiting) requestAnimationFrame(() => { waiting = false; follow(); });
    waiting = true;
  }, { passive: true });
  follow();

  for (const box of document.querySelectorAll(".scroll, .plot")) {
    if (box.scrollWidth > box.clientWidth && !box.querySelector("svg")) box.tabIndex = 0;
  }

  // Paper has nothing to unfold.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("main details:not([open])")];
    for (const one of folded) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of folded) one.open = false; });
}
