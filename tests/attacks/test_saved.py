"""What an analysis left on disk may have been changed since: it is used again only as it was saved."""

import csv
import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import analyze
from analyze.errors import AnalysisError
from analyze.report import svg
from analyze.report.save import ResultStore, read_skipped, write_table
from analyze.tables import neutral
from tests.synthetic import write_archive
from tracer.command import console
from tracer.errors import MissingTraceError

NAME = "generalization"
HOSTILE = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "run.zarr"
    write_archive(path, steps=(0, 1, 2))
    return path


def analyzed(run: Path, out: Path) -> analyze.Results:
    return analyze.run(run, metrics=[NAME], output=out)


@pytest.fixture(scope="module")
def results(run: Path) -> analyze.Results:
    return analyze.run(run, metrics=[NAME])


@pytest.mark.parametrize("what", ["values", "attributes", "link", "no digests"])
def test_a_changed_result_is_computed_again(run: Path, tmp_path: Path, what: str) -> None:
    first = analyzed(run, tmp_path)[NAME]
    group = tmp_path / "results.zarr" / NAME
    match what:
        case "values":
            file = next(file for file in sorted(group.rglob("c/*")) if file.is_file())
            file.write_bytes(file.read_bytes()[:-1] + b"?")
        case "attributes":
            document = group / "zarr.json"
            document.write_text(document.read_text().replace(first.attrs["archive_digest"], "0" * 64))
        case "link":
            group.rename(tmp_path / "elsewhere")
            group.symlink_to(tmp_path / "elsewhere")
        case "no digests":
            (tmp_path / "digests.json").unlink()
    with pytest.warns(UserWarning, match="not as they were saved"), pytest.raises(MissingTraceError):
        analyze.load(tmp_path)
    if what != "link":
        with pytest.warns(UserWarning, match="not as they were saved"):
            again = analyzed(run, tmp_path)[NAME]
        assert again["loss"].identical(first["loss"])
        assert analyze.load(tmp_path)[NAME]["loss"].equals(first["loss"])


@pytest.mark.parametrize(
    "name", ["results.zarr", f"results.zarr/{NAME}", f"results.zarr/.{NAME}.new", "figures", "tables"]
)
def test_nothing_is_written_through_a_linked_folder(
    tmp_path: Path, results: analyze.Results, name: str
) -> None:
    (outside := tmp_path / "outside").mkdir()
    place = tmp_path / "out" / name
    place.parent.mkdir(parents=True)
    place.symlink_to(outside)
    with pytest.raises(AnalysisError, match="is a link, and results are written to plain folders alone"):
        results.save(tmp_path / "out")
    assert not list(outside.iterdir())


FILES = [
    "digests.json",
    "summary.json",
    "report.html",
    "results.zarr/zarr.json",
    f"figures/{NAME}.svg",
    f"tables/{NAME}.csv",
]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("plant", ["link", "pipe", "depth"])
def test_what_is_no_plain_document_is_written_anew(
    tmp_path: Path, results: analyze.Results, plant: str
) -> None:
    (outside := tmp_path / "outside").write_text("mine")
    for name in FILES:
        place = tmp_path / "out" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if plant == "depth":
            place.write_text("[" * 100_000)
        else:
            place.symlink_to(outside) if plant == "link" else os.mkfifo(place)
    assert read_skipped(tmp_path / "out") == {}
    results.save(tmp_path / "out")
    assert list(analyze.load(tmp_path / "out")) == [NAME]
    for name in FILES:
        place = tmp_path / "out" / name
        assert place.is_file() and not place.is_symlink() and not place.read_text().startswith("[[")
    assert outside.read_text() == "mine"


def test_an_unchanged_result_is_used_again(run: Path, tmp_path: Path) -> None:
    analyzed(run, tmp_path)
    stamp = (tmp_path / "results.zarr" / NAME / "zarr.json").stat().st_mtime_ns
    analyzed(run, tmp_path)
    assert (tmp_path / "results.zarr" / NAME / "zarr.json").stat().st_mtime_ns == stamp
    assert ResultStore(tmp_path).names() == [NAME]


def test_a_changed_figure_is_drawn_again(run: Path, tmp_path: Path) -> None:
    results = analyzed(run, tmp_path)
    results.save(tmp_path)
    file = tmp_path / "figures" / f"{NAME}.svg"
    drawn = file.read_text()
    file.write_text(drawn.replace("</svg>", "<script>alert(1)</script></svg>"))
    results.save(tmp_path)
    assert file.read_text() == drawn
    assert "<script>alert" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    "markup",
    [
        "<script>alert(1)</script>",
        '<g onload="alert(1)"/>',
        '<g OnLoad="alert(1)"/>',
        "<g onload=alert(1)/>",
        '<a href="javascript:alert(1)"><path d="M0 0"/></a>',
        '<use href="https://example.org/x.svg#a"/>',
        '<image xlink:href="https://example.org/x.png"/>',
        '<image href="data:image/svg+xml;base64,PHN2Zz4="/>',
        "<foreignObject><body/></foreignObject>",
        "<style>@import url(https://example.org/x.css);</style>",
        '<path style="fill: url(https://example.org/x)"/>',
        '<path style="fill: u\\72l(https://example.org/x)"/>',
        "</svg><img src=x onerror=alert(1)><svg>",
        "<title><img src=x onerror=alert(1)></title>",
        "<![CDATA[<script>alert(1)</script>]]>",
        '<g a="1"b="2"/>',
        "<g><g></svg>",
        "<!DOCTYPE x [<!ENTITY y 'z'>]>",
        "<g/",
    ],
)
def test_only_drawings_come_from_a_file_into_a_page(markup: str, tmp_path: Path) -> None:
    figure = '<svg xmlns="http://www.w3.org/2000/svg"><g id="a"><path d="M0 0"/></g>{}</svg>'
    assert svg.is_drawing(svg.inline(figure.format(""), "k", "label"))
    file = tmp_path / "f.svg"
    file.write_text(figure.format(markup))
    assert not svg.is_drawing(svg.inline(file.read_text(), "k", "label"))
    drawn = svg.fragment(_figure, "k", "label", file)
    assert "alert" not in drawn
    assert "example.org" not in drawn


def _figure():
    from matplotlib.figure import Figure

    return Figure()


def test_a_page_never_has_what_a_file_says_that_is_no_drawing(run: Path, tmp_path: Path) -> None:
    from analyze import report

    (tmp_path / f"{NAME}.svg").write_text(HOSTILE)
    results = analyze.run(run, metrics=[NAME])
    report.write(results, tmp_path / "report.html", figures=tmp_path)
    assert "<script>alert" not in (tmp_path / "report.html").read_text()


FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0"]


def test_formulas_are_texts_in_tables(tmp_path: Path) -> None:
    labels = [*FORMULAS, "-1.5", "fine"]
    data = xr.Dataset({"x": ("layer", np.linspace(-2, 2, len(labels)))}, {"layer": labels})
    write_table(data, tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == [
        *(f"'{text}" if text[0] != "\r" else "\\r=1" for text in FORMULAS),
        "-1.5",
        "fine",
    ]
    assert float(rows[0]["value"]) == -2.0
    table = neutral(pd.DataFrame({"=a": ["=b"], "n": [-1.5]}, index=["@run"]))
    assert (table.index[0], table.columns[0], table.iloc[0, 0], table.iloc[0, 1]) == (
        "'@run",
        "'=a",
        "'=b",
        -1.5,
    )


def test_formulas_are_texts_in_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(console.sys, "stdout", out)
    console.emit([{"name": text, "value": -1.5} for text in ("=1+1", "-x", "fine")], "csv")
    assert [row.split(",") for row in out.getvalue().split()] == [
        ["name", "value"],
        ["'=1+1", "-1.5"],
        ["'-x", "-1.5"],
        ["fine", "-1.5"],
    ]
