"""The report: complete, self-contained, and safe to open whatever the archive's names are."""

import base64
import hashlib
import json
import re
from html import unescape
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from analyze import plot, report
from analyze.catalogue import available_metrics
from analyze.report import entries, svg
from tests import report_data as data

FETCHING = {"src", "srcset", "data", "poster", "action", "background", "manifest"}


class Page(HTMLParser):
    """Collects what the tests ask about a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.ids, self.anchors, self.fetched, self.headings = [], [], [], [], []
        self.feed(html)
        unseen = r"<style>.*?</style>|<script.*?</script>|<[^>]*>"
        self.text = re.sub(r"\s+", " ", re.sub(unseen, " ", html, flags=re.DOTALL))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            elif tag == "a" and name == "href":
                self.anchors.append(value)
            elif name in FETCHING or name.endswith("href"):
                self.fetched.append(value)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return data.archive(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def html(run):
    return report.render(data.honest(), run)


def test_the_page_shows_the_run_the_findings_and_every_metric(html):
    page = Page(html)
    assert "mlp.zarr" in page.text
    assert "Sequential with 30 parameters, trained for 100 updates of SGD" in page.text
    assert "generalization gap of 3.0 percentage points" in page.text
    for anchor in ("findings", "trained", "recorded", "skipped", "references", "provenance", *data.honest()):
        assert anchor in page.ids
        assert f"#{anchor}" in page.anchors
    assert "the archive holds no sums" in page.text


@pytest.mark.usefixtures("undrawn")
def test_a_recording_that_ended_early_is_said_to_have(tmp_path):
    archive = data.archive(tmp_path)
    assert "not complete" not in Page(report.render(data.MadeResults({}), archive)).text
    archive.state = "interrupted"
    text = Page(report.render(data.MadeResults({}), archive)).text
    assert "not complete (interrupted): everything below ends at step 100" in text


@pytest.mark.usefixtures("undrawn")
def test_the_gap_is_labelled_by_what_it_is_against(run):
    results = data.honest()
    assert "percentage points, test − train" in Page(report.render(results, run)).text
    names = {"probe": ["train", "val"]}
    results["generalization"] = (
        results["generalization"]
        .assign_coords(names)
        .assign_attrs(against="val", formula="gap = val - train")
    )
    text = Page(report.render(results, run)).text
    assert "val error 3.0%" in text and "percentage points, val − train" in text
    assert "1,000 validation examples wrong: a generalization gap of 3.0" in text
    assert "gap = val - train" in text and "test − train" not in text


@pytest.mark.usefixtures("undrawn")
def test_one_of_a_thing_is_one(tmp_path):
    archive = data.archive(tmp_path)
    archive.rows = {name: values[:2] for name, values in archive.rows.items()}
    archive.epoch_ends, archive.snapshots = np.array([1]), np.array([0])
    text = Page(report.render(data.MadeResults({}), archive)).text
    for one in (
        "for 1 update of SGD",
        "through 6 train examples.",
        "1 epoch ",
        "of 1 layer.",
        "of 1 probe at 1 snapshot.",
    ):
        assert one in text


def test_nothing_is_fetched_and_only_the_pages_own_script_may_run(html):
    page = Page(html)
    assert all(value.startswith(("data:", "#")) for value in page.fetched)
    assert not {"link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not re.search(r"url\((?!#)|@import|xmlns", html)
    assert all(link.startswith(("#", "https://")) for link in page.anchors)
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'" in html
    )
    others = re.findall(r"<script ([^>]*)>", html)
    assert set(others) == {'type="application/json" class="held"'}
    assert not re.search(
        r"https?:|fetch\(|XMLHttp|innerHTML|eval\(", script.replace("http://www.w3.org/2000/svg", "")
    )


def test_headings_skip_no_level_and_every_table_says_what_it_is(html):
    page = Page(html)
    assert page.headings.count(1) == 1
    steps = zip(page.headings, page.headings[1:], strict=False)
    assert all(after - before <= 1 for before, after in steps)
    tables = re.findall(r"<table>(.*?)</table>", html, flags=re.DOTALL)
    assert len(tables) > 5
    assert all(re.search(r"<caption[^>]*>[^<]+</caption>", table) for table in tables)


def test_every_link_within_the_page_arrives_and_ids_are_unique(html):
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.anchors if link.startswith("#")} <= set(page.ids)


def test_metrics_that_lack_the_same_are_one_row():
    reason = "needs minibatches"
    skipped = {"minibatch_cna": reason, "hessian": "would take 3 min", "minibatch_forgetting": reason}
    html = report.render(data.MadeResults({"margin": data.margin([1, 2, 3, 4])}, skipped=skipped))
    assert html.count(reason) == 1
    assert "CNA of each minibatch, Forgetting events" in Page(html).text


def test_names_from_an_archive_are_text_only(tmp_path):
    evil = '<script>alert("x")</script>'
    names = ("title", "meaning", "formula", "reading", "options", "lag", "run_id")
    result = data.margin([1, 2, 3, 4]).assign_attrs(dict.fromkeys(names, evil))
    results = data.MadeResults({evil: result}, skipped={evil: evil})
    html = report.render(results, data.archive(tmp_path, layer=evil))
    assert "<script>alert" not in html
    assert "&lt;script&gt;" in html
    for held in re.findall(r'class="held">(.*?)</script>', html):
        assert json.loads(held)


def test_names_from_an_archive_stay_names_in_the_values_a_figure_carries():
    evil = "'></script><script>alert(1)</script>"
    result = data.honest()["stiffness"].assign_coords(layer=[evil, "2", "all"])
    html = report.render(data.MadeResults({"stiffness": result}))
    assert "<script>alert" not in html
    (held,) = re.findall(r'class="held">(.*?)</script>', html)
    assert json.loads(held)["variables"]["cosine"]["dims"][2]["labels"][0] == evil
    panels = re.findall(r"data-panel='([^']*)'", html)
    assert any(evil in json.loads(unescape(panel)).get("cells", {}).get("rows", []) for panel in panels)


def test_a_plot_that_fails_costs_only_its_own_figure():
    broken = data.honest()["stiffness"].drop_vars("sign")
    html = report.render(data.MadeResults({"stiffness": broken, "margin": data.margin([1, 2, 3, 4])}))
    assert "The figure could not be drawn (KeyError" in html
    assert "margin" in html


def test_undefined_values_are_counted_with_the_metrics_own_rule(html):
    assert "4 of 16 values of mean" in Page(html).text
    dataset = xr.Dataset({"cosine": ("step", [np.nan, 1.0]), "n_undefined": ("step", [3, 0])})
    assert entries.undefined(dataset, None) == {
        "count": "1 of 2 values undefined",
        "rule": "1 of 2 values of cosine, 3 terms left out of means (n_undefined).",
    }


@pytest.mark.usefixtures("undrawn")
def test_a_report_without_an_archive_still_shows_results():
    page = Page(report.render(data.honest()))
    assert "trained" not in page.ids
    assert "stiffness" in page.ids


def test_the_same_results_give_the_same_page(html, run):
    assert report.render(data.honest(), run) == html


def test_templates_are_compiled_once(html, monkeypatch):
    monkeypatch.setattr("jinja2.Environment.compile", lambda *_: pytest.fail("a template is compiled again"))
    assert "</html>" in report.render(data.MadeResults({}))


def test_every_metric_has_a_chapter_of_its_subject():
    cards = available_metrics().values()
    listed = [{"name": card.name, "title": card.title, "chapter": entries.chapter_of(card)} for card in cards]
    chapters = {
        group["name"]: [one["name"] for one in group["entries"]] for group in entries.chapters(listed)
    }
    assert sum(map(len, chapters.values())) == len(listed)
    assert "Other measures" not in chapters and len(chapters) == len(entries.CHAPTERS) - 1
    assert chapters["Gradients"][:2] == ["stiffness", "class_stiffness"]
    assert next(iter(chapters)) == "Outcome"


def test_figures_share_a_page_without_sharing_ids():
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], marker="o")
    one, two = (svg.fragment(lambda: figure, key, "A & B") for key in ("one", "two"))
    assert 'aria-label="A &amp; B"' in one
    assert not set(re.findall(r' id="([^"]+)"', one)) & set(re.findall(r' id="([^"]+)"', two))
    for target in re.findall(r'(?:href="|url\()#([^")]+)', one):
        assert f'id="{target}"' in one


def test_a_very_large_figure_becomes_a_picture(monkeypatch):
    monkeypatch.setattr(svg, "LIMIT", 10)
    figure = Figure(figsize=(1, 1))
    figure.subplots()
    assert svg.fragment(lambda: figure, "k", "label").startswith(
        '<img alt="label" src="data:image/png;base64,'
    )


def test_figures_drawn_before_are_used_as_they_are(tmp_path):
    (tmp_path / "stiffness.svg").write_text('<?xml version="1.0"?><svg><text>drawn before</text></svg>')
    results = data.MadeResults({"stiffness": data.honest()["stiffness"]})
    path = report.write(results, tmp_path / "report.html", figures=tmp_path)
    assert "<text>drawn before</text>" in path.read_text()


def test_a_figure_drawn_before_is_drawn_again_only_where_it_is_no_drawing(tmp_path):
    figure, path = Figure(figsize=(4, 3)), tmp_path / "figure.svg"
    axes = figure.subplots()
    axes.set(yscale="log", ylim=(1e-9, 1e9), yticks=[10.0**k for k in range(-9, 10)])
    plot.save_svg(figure, path)
    text = path.read_text()
    assert text.count("<!--") > 8

    def draw():
        raise AssertionError

    assert svg.fragment(draw, "k", "label", path) == svg.inline(text, "k", "label")
    for without_end in ("<!--", "<metadata>"):
        path.write_text(text.replace("</svg>", without_end * 200_000 + "</svg>"))
        assert without_end not in svg.fragment(Figure, "k", "label", path)


def test_references_are_numbered_in_the_order_of_the_page(html):
    cited = [int(number) for number in re.findall(r'href="#ref-(\d+)"', html)]
    assert list(dict.fromkeys(cited)) == list(range(1, max(cited) + 1))


def test_drawing_a_report_leaves_pyplot_alone(html):
    assert plt.get_fignums() == []
