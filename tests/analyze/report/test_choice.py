"""What a page shows first, what it shows together, and what it only lists."""

import numpy as np
import pytest

from analyze import report
from analyze.catalogue import available_metrics
from analyze.report.choice import MOST, leading
from analyze.report.entries import joined, line_of
from analyze.summary import Line
from tests import report_data as data


def made(name, chapter, score, **about):
    return {
        "name": name,
        "title": name,
        "chapter": chapter,
        "score": score,
        "drawable": True,
        "beside": "",
        **about,
    }


def test_what_findings_speak_of_comes_first_then_what_changed_most_of_several_chapters():
    entries = [made(f"g{k}", "gradients", 1 - k / 100) for k in range(9)] + [
        made("p", "paths", 0.1),
        made("o", "outcome", 0),
    ]
    first = [one["name"] for one in leading(entries, ["o", "absent", "o"])]
    assert first == ["o", "g0", "g1", "p"], "two of a chapter, and none that did not change"
    many = [made(f"m{k}", f"chapter {k}", 1.0) for k in range(20)]
    assert len(leading(many, [])) == MOST
    assert leading([made("a", "paths", 1.0, drawable=False)], ["a"]) == []


def test_what_says_the_same_in_other_units_is_one_section():
    entries = [made("diversity", "gradients", 1.0, beside="coherence"), made("coherence", "gradients", 1.0)]
    (section,) = joined(entries)
    assert section["name"] == "coherence" and [one["name"] for one in section["also"]] == ["diversity"]
    assert [one["name"] for one in joined(entries[:1])] == ["diversity"], "alone it has a section of its own"
    cards = available_metrics()
    assert all(
        card.beside in ("", *cards) and not cards.get(card.beside, card).beside
        for card in cards.values()
        if card.beside
    )
    assert {name for name, card in cards.items() if card.beside == "gradient_coherence"} == {
        "gradient_diversity",
        "gradient_noise",
    }


@pytest.mark.usefixtures("undrawn")
def test_a_result_without_a_number_is_listed_and_has_no_section():
    results = data.honest()
    results["margin"] = results["margin"] * np.nan
    html = report.render(results)
    assert 'id="margin"' not in html and "8 of 8 values of gamma" in html and 'id="skipped"' in html


@pytest.mark.usefixtures("undrawn")
def test_figures_and_numbers_beside_the_page_can_be_downloaded(tmp_path):
    for folder, kind in (("figures", "svg"), ("tables", "csv")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"margin.{kind}").write_text("x")
    html = report.render(data.honest(), figures=tmp_path / "figures")
    assert 'href="figures/margin.svg" download' in html and 'href="tables/margin.csv" download' in html
    assert "figures/stiffness.svg" not in html and "download" not in report.render(data.honest())


def test_a_metric_is_told_by_a_number_that_moved():
    def line(variable, *values):
        return Line("m", variable, (), (0, 1), np.array(values, float), None)

    assert line_of([line("params", 10, 10), line("gain", 1, 3)]) == "gain 1 → 3"
    assert line_of([line("params", 10, 10)]) == "params 10 → 10"
    assert line_of([line("gone", np.nan, np.nan)]) == ""
