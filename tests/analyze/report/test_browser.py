"""The report and the comparison in a real browser: silent, self-contained, usable by pointer, key and reader."""

import numpy as np
import pytest

import analyze
from analyze.report import write as write_report
from analyze.results import Results
from tests.analyze.comparison.test_compare import grid
from tests.browser import launched
from tests.synthetic import write_archive

METRICS = ["generalization", "stiffness", "class_stiffness", "margin", "path_self_similarity"]
# What an accessibility checker would say of a page, as a list of complaints.
SANE = """() => {
  const said = [], all = selector => [...document.querySelectorAll(selector)];
  const named = node => (node.getAttribute("aria-label") || node.alt || node.textContent || "").trim();
  const labelled = node => node.getAttribute("aria-label") || [...(node.labels ?? [])].some(named);
  const complain = (what, nodes) => said.push(...nodes.map(node => `${what}: ${node.outerHTML.slice(0, 80)}`));
  const levels = all("h1, h2, h3, h4, h5, h6").map(node => +node.tagName[1]);
  if (levels.filter(level => level === 1).length !== 1) said.push("not one h1");
  if (levels.some((level, k) => k && level > levels[k - 1] + 1)) said.push(`a heading is skipped: ${levels}`);
  if (!document.documentElement.lang || !document.title) said.push("no language or title");
  const ids = all("[id]").map(node => node.id);
  const twice = ids.filter((id, k) => ids.indexOf(id) !== k);
  if (twice.length) said.push(`an id is used twice: ${twice}`);
  complain("image without a name", all("img, figure svg").filter(node => !named(node)));
  complain("drawing that is no image", all("figure svg").filter(node => node.getAttribute("role") !== "img"));
  complain("control without a label", all("input, select").filter(node => !labelled(node)));
  complain("button or link without a name", all("button, a, summary").filter(node => !named(node)));
  complain("table without a caption", all("table").filter(node => !node.caption?.textContent.trim()));
  complain("head cell without a scope", all("th").filter(node => !node.scope));
  for (const name of ["aria-labelledby", "aria-describedby", "aria-controls"]) {
    complain(name, all(`[${name}]`).filter(node => !document.getElementById(node.getAttribute(name))));
  }
  return said;
}"""
# Contrast of the text, or of the strokes, of some elements with the page's paper, as WCAG 2 defines it.
CONTRAST = """selector => {
  const linear = part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const light = color => {
    const [red, green, blue] = color.match(/[\\d.]+/g).map(part => linear(part / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  return [...document.querySelectorAll(selector)].map(node => {
    const style = getComputedStyle(node), ink = light(node.matches("path") ? style.stroke : style.color);
    return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  });
}"""


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run.zarr"
    write_archive(path)
    return analyze.run(path, METRICS)


@pytest.fixture(scope="module")
def analysis(results, tmp_path_factory):
    """A saved analysis."""
    skipped = {"cka": "needs activations"}
    return Results(results, skipped, archive=results.archive).save(tmp_path_factory.mktemp("analysis"))


@pytest.fixture(scope="module")
def report(analysis):
    """Address of its report."""
    return (analysis / "report.html").as_uri()


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Address of a comparison."""
    folder = tmp_path_factory.mktemp("grid")
    analyze.compare(grid(folder), bootstrap=20).save(folder / "out")
    return (folder / "out" / "comparison.html").as_uri()


@pytest.fixture(scope="module")
def tab(browser):
    """One page for all tests: starting another takes the browser longer than most tests last."""
    return browser.new_page()


@pytest.fixture
def page(tab):
    """A page that fails the test for any word on the console and any request but for the file itself."""
    said = []
    heard = {
        "console": lambda message: said.append(f"{message.type}: {message.text}"),
        "pageerror": lambda error: said.append(str(error)),
        "request": lambda request: request.url.startswith("file:") or said.append(request.url),
    }
    tab.set_default_timeout(10_000)
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.emulate_media(media="null", color_scheme="null")
    for event, listener in heard.items():
        tab.on(event, listener)
    yield tab
    for event, listener in heard.items():
        tab.remove_listener(event, listener)
    assert said == []
    tab.goto("about:blank")


def view(page, metric, name):
    """Choose a view of a metric's figure, and return the figure."""
    figure = page.locator(f"article:has(#{metric}) figure")
    figure.get_by_role("radio", name=name).check()
    return figure


@pytest.mark.parametrize("kind", ["report", "comparison"])
@pytest.mark.parametrize(
    "width", [400, pytest.param(1280, marks=pytest.mark.slow)]
)  # that of all other tests
def test_a_page_fits_and_is_sane(page, kind, width, request, tmp_path):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(request.getfixturevalue(kind))
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        picture = page.screenshot(path=tmp_path / f"{kind}-{width}-{scheme}.png")
        assert len(picture) > 10_000
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.locator("details").evaluate_all("nodes => nodes.forEach(node => { node.open = true; })")
    cut = "nodes => nodes.filter(node => node.scrollWidth > node.clientWidth).map(node => node.innerText)"
    assert page.locator(".metric .scroll").evaluate_all(cut) == []
    assert page.locator("figure svg").count() >= 4
    assert page.evaluate(SANE) == []


def test_the_slider_turns_the_figure(page, report):
    page.goto(report)
    figure = view(page, "class_stiffness", "By snapshot")
    colors = "nodes => nodes.map(node => node.style.fill)"
    cells, slider = figure.locator(".cell"), figure.get_by_role("slider", name="step")
    last = cells.evaluate_all(colors)
    assert len(last) == 9 and figure.locator("output").inner_text() == "8"
    slider.press("Home")
    assert figure.locator("output").inner_text() == "0"
    assert cells.evaluate_all(colors) != last
    assert slider.get_attribute("aria-valuetext") == "step 0"
    figure.get_by_role("button", name="Play").click()
    page.wait_for_function("() => document.querySelector('output').textContent === '8'")
    assert cells.evaluate_all(colors) == last
    assert page.evaluate(SANE) == []
    figure.get_by_role("radio", name="Overview").check()
    assert figure.locator(".plot").is_visible() and not figure.locator(".stage").is_visible()


def panel(page, metric, number):
    """Left and right of a panel, where its points lie, its numbered ticks and where its map lies."""
    return page.evaluate(
        """([metric, number]) => {
          const svg = document.querySelector(`#figure-${metric} .plot svg`), { box, group, xs } = svg.panels[number];
          const points = [...group.querySelectorAll(":scope > g:not(.time) g[clip-path] use")];
          const drawn = points.map(use => +use.getAttribute("x"));
          const ticks = [...group.querySelectorAll(".time text")].map(text => text.textContent);
          const image = group.querySelector("image");
          const map = image && ["x", "width", "href"].map(name => image.getAttribute(name));
          return { ends: [box[0], box[2]], drawn, told: xs?.[0].at, ticks, map };
        }""",
        [metric, number],
    )


def test_one_switch_sets_the_time_axis_of_lines_and_of_maps(page, report, results):
    page.goto(report)
    assert page.get_by_role("radio", name="linear").is_checked(), "as the run's own snapshots have it"
    page.locator("#figure-stiffness .plot").scroll_into_view_if_needed()
    line, heat = panel(page, "stiffness", 0), panel(page, "stiffness", 2)
    assert line["ticks"][:-1] == heat["ticks"][:-1] and line["ends"] == heat["ends"], "one above the other"
    page.get_by_role("radio", name="logarithmic").check()
    page.wait_for_function(
        "() => document.querySelectorAll('#figure-stiffness .plot image[href]').length === 2"
    )
    other, moved = panel(page, "stiffness", 0), panel(page, "stiffness", 2)
    steps = results["stiffness"]["step"].values
    places = np.where(steps > 1, 10 / 9 + np.log10(np.maximum(steps, 1)), steps * 10 / 9)
    low, high = -0.4 * 10 / 9, 10 / 9 + np.log10(1.3 * steps[-1])
    left, right = line["ends"]
    expected = left + (right - left) * (places - low) / (high - low)
    assert other["drawn"][: len(steps)] == pytest.approx(expected, abs=0.3) != line["drawn"][: len(steps)]
    assert other["told"] == pytest.approx(expected, abs=0.3), "what the pointer reads moves along"
    assert other["ticks"] == moved["ticks"] == ["0", "1", "10", "step"]
    assert float(moved["map"][0]) == left and moved["map"][2] != heat["map"][2]
    # The map has a column for each snapshot, as wide as the axis says.
    edges = page.evaluate("document.querySelector('#figure-stiffness .plot svg').panels[2].map.edges")
    assert len(edges) == len(steps) + 1 and edges[0] == left and edges[-1] == right
    inner = left + (right - left) * ((places[1:] + places[:-1]) / 2 - low) / (high - low)
    assert edges[1:-1] == pytest.approx(inner, abs=(right - left) / 20)
    # What was out of sight follows once it is looked at, and so does a chart of the reader's choice.
    page.locator("#figure-margin .plot").scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelector('#figure-margin .plot svg').timed === 'log'")
    page.get_by_role("radio", name="linear").check()
    page.locator("#figure-stiffness .plot").scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelector('#figure-stiffness .plot svg').timed === 'linear'")
    again = panel(page, "stiffness", 0)
    assert again["drawn"] == line["drawn"] and again["ticks"] == line["ticks"]
    assert page.evaluate(SANE) == []


def test_no_figure_scrolls_sideways_on_a_phone(page, report):
    page.set_viewport_size({"width": 400, "height": 900})
    page.goto(report)
    page.locator("details").evaluate_all("nodes => nodes.forEach(node => { node.open = true; })")
    wide = "nodes => nodes.filter(node => node.scrollWidth > node.clientWidth).length"
    plots = page.locator(".plot")
    assert plots.count() == len(METRICS) + 1 and plots.evaluate_all(wide) == 0
    # No word is cut off, those of legends among them, and no legend lies on a panel.
    cut = """nodes => nodes.flatMap(svg => {
      const whole = svg.getBoundingClientRect(), box = node => node.getBoundingClientRect();
      const over = text => box(text).right > whole.right + 2 || box(text).left < whole.left - 2;
      const top = Math.min(...[...svg.querySelectorAll("[data-outer]")].map(group => box(group).top));
      const low = text => !text.closest("[data-outer]") && box(text).bottom > top + 3;
      return [...svg.querySelectorAll("text")].filter(text => over(text) || low(text)).map(text => text.textContent);
    })"""
    assert page.locator(".plot > svg").evaluate_all(cut) == []


def test_a_layer_is_chosen(page, report, results):
    page.goto(report)
    figure = view(page, "stiffness", "By layer")
    layers = figure.get_by_role("combobox", name="layer")
    assert layers.locator("option").all_inner_texts() == ["fc1", "fc2", "fc3", "all"]
    assert layers.input_value() == "3", "the whole network comes first"
    curve = "document.querySelector('#stiffness ~ figure .curve').getAttribute('d')"
    whole = page.evaluate(curve)
    layers.select_option("fc2")
    assert page.evaluate(curve) != whole
    assert "layer fc2" in figure.locator(".canvas svg").get_attribute("aria-label")
    figure.get_by_role("combobox", name="show").select_option("sign")
    assert "stiffness: sign, by layer" in figure.locator(".canvas svg").get_attribute("aria-label").lower()


def test_the_arrow_keys_and_the_pointer_read_values(page, report, results):
    page.goto(report)
    svg = page.locator("article:has(#margin) .plot svg")
    svg.focus()
    page.keyboard.press("ArrowRight")
    expected = float(results["margin"]["gamma"].sel(probe="train")[0])
    shown = page.get_by_role("status").inner_text().replace("−", "-")
    assert f"{float(f'{expected:.4g}')}" in shown and "step 0" in shown
    page.keyboard.press("ArrowRight")
    assert "step 1" in page.get_by_role("status").inner_text()
    page.keyboard.press("Escape")
    assert not page.get_by_role("status").is_visible()
    box = svg.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 6, box["y"] + box["height"] / 2)
    assert page.get_by_role("status").is_visible() and svg.locator(".here circle").count() == 2


def test_the_contents_follow_the_reader(page, report):
    page.goto(f"{report}#class_stiffness")
    current = page.locator("nav [aria-current]")
    page.wait_for_function("() => document.querySelector('nav [aria-current]').hash === '#class_stiffness'")
    assert current.inner_text() == "Class stiffness"
    page.set_viewport_size({"width": 400, "height": 800})
    menu = page.get_by_role("button", name="Contents")
    assert "Class stiffness" in menu.inner_text() and not current.is_visible()
    menu.press("Enter")
    assert current.is_visible()
    page.keyboard.press("Escape")
    assert not current.is_visible()


def test_dark_paper_has_light_ink_and_lines_that_can_be_seen(page, report):
    page.goto(report)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert min(page.evaluate(CONTRAST, "p, figcaption, nav a, caption, td, summary, .views span")) >= 4.5
        assert min(page.evaluate(CONTRAST, "#generalization ~ figure .plot path[clip-path]")) >= 2.5, scheme
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 25, 28)"


def test_paper_shows_everything(page, report):
    page.goto(report)
    figure = view(page, "class_stiffness", "By snapshot")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert figure.locator(".plot").is_visible() and not figure.locator(".stage").is_visible()
    assert not page.locator("nav").is_visible()
    assert page.locator("table:visible").count() == page.locator("table").count() > len(METRICS)


def test_without_scripts_everything_is_shown(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report)
    assert page.locator("nav a:visible").count() == page.locator("nav a").count() > len(METRICS)
    assert (
        page.locator("figure svg:visible").count() == page.locator("figure svg").count() == len(METRICS) + 1
    )
    assert page.locator(".views, nav button:visible").count() == 0
    context.close()


def test_a_name_that_is_markup_stays_text(page, results, tmp_path):
    evil = "<img src=x onerror=alert(1)>'\"</script><script>alert(2)</script>"
    changed = results["stiffness"].assign_coords(layer=[evil, "fc2", "fc3", "all"])
    path = tmp_path / "report.html"
    write_report(Results({"stiffness": changed}), path)
    page.goto(path.as_uri())
    figure = view(page, "stiffness", "By layer")
    assert figure.get_by_role("combobox", name="layer").locator("option").first.inner_text() == evil
    assert page.locator("img").count() == 0 and page.locator("script").count() == 2
    assert page.evaluate(SANE) == []


def resize(page, width):
    """Give a page that is shown another width, and wait until it has been drawn so."""
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("() => new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")


def test_panels_stand_below_one_another_where_there_is_little_room(page, report, results):
    page.set_viewport_size({"width": 400, "height": 900})
    page.goto(report)
    svg = page.locator("article:has(#stiffness) .plot svg")
    wide = "node => node.scrollWidth <= node.clientWidth"
    assert page.locator("article:has(#stiffness) .plot").evaluate(wide), "nothing is cut off"
    boxes = [group.bounding_box() for group in svg.locator("[data-outer][data-panel]").all()]
    assert len(boxes) == 4 and boxes[-1]["y"] > boxes[0]["y"] + boxes[0]["height"]
    svg.focus()
    page.keyboard.press("ArrowRight")
    shown = page.get_by_role("status").inner_text().replace("−", "-")
    expected = float(results["stiffness"]["cosine"].sel(pair="train-train", layer="all")[0])
    assert f"{float(f'{expected:.4g}')}" in shown
    resize(page, 1280)
    assert svg.get_attribute("viewBox").startswith("0 0 518.4")


def test_a_panel_that_comes_to_stand_alone_has_the_numbers_it_shared(page, comparison):
    page.goto(comparison)
    assert page.locator(".lent").count() == 0
    resize(page, 400)
    texts = "group => [...group.querySelectorAll('text:not([transform])')].map(text => text.textContent)"
    first, second = page.locator(".plot svg:has(.lent)").first.locator("[data-panel]").all()[:2]
    assert set(second.locator(".lent").evaluate(texts)) <= set(first.evaluate(texts))
    left = second.locator(".lent").bounding_box()
    assert left["x"] > 0 and left["width"] < 60 and left["y"] > first.bounding_box()["y"] + 40
    resize(page, 1280)
    assert page.locator(".lent").count() == 0


def test_chapters_are_folded_and_open_where_a_link_leads(page, results, analysis, tmp_path):
    copies = {f"copy_{k}": results["margin"] for k in range(9)} | dict(results)
    write_report(Results(copies), tmp_path / "report.html", figures=analysis / "figures")
    page.goto((tmp_path / "report.html").as_uri())
    chapters = page.locator("details.chapter")
    assert chapters.count() and not chapters.evaluate_all("nodes => nodes.some(node => node.open)")
    last = chapters.locator("article h3").last
    assert not last.is_visible()
    page.evaluate("id => location.hash = id", last.get_attribute("id"))
    last.wait_for(state="visible")
    search = page.get_by_role("searchbox", name="Search metrics")
    search.fill("copy_3")
    assert page.locator("nav li:visible").count() == 1
    search.press("Enter")
    sought = page.locator("#copy_3")
    sought.wait_for(state="visible")
    assert 0 <= sought.bounding_box()["y"] < 300
    search.fill("no such metric")
    assert page.get_by_text("Nothing is called that").is_visible()
    search.fill("")
    assert (
        page.locator("nav li:visible").count() > 9 and not page.get_by_text("Nothing is called").is_visible()
    )
    page.locator("a[href='#ref-1']:visible").first.click()
    page.locator("#ref-1").wait_for(state="visible")
    assert page.evaluate(SANE) == []
