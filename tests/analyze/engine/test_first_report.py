"""What comes first: stored arrays and a page, then what runs the network again, each with the page anew."""

import io
import re
from concurrent.futures import BrokenExecutor, Executor, Future

import matplotlib
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from matplotlib.axes import Axes

import analyze
import cli
import tracer
from analyze import plot
from analyze.catalogue import available_metrics
from analyze.command.analysis import analyze_one
from analyze.engine.cost import of_stored
from analyze.engine.plan import make_plan
from analyze.plot.drawing import MAP_DPI
from analyze.report import save
from analyze.report.save import Pages

STORED, AGAIN = ("margin", "stiffness"), ("layer_margin", "sam_sharpness", "sharpness")


@pytest.fixture(scope="module")
def path(everything):
    return everything


@pytest.fixture
def few_metrics(monkeypatch):
    cards = {name: available_metrics()[name] for name in (*AGAIN, *STORED)}
    monkeypatch.setattr("analyze.engine.available_metrics", lambda: cards)


def test_stored_arrays_come_first_then_the_others_by_cost(path, few_metrics):
    seen, finished = [], []
    analyze.run(
        path,
        arrived=lambda results: seen.append((set(results), results.coming)),
        finished=lambda name, data: finished.append(name),
    )
    assert seen[0] == (set(STORED), AGAIN)
    assert [coming for _, coming in seen] == [AGAIN, AGAIN[1:], AGAIN[2:], ()]
    assert finished[:2] == list(STORED) or finished[:2] == list(STORED[::-1])
    assert finished[2:] == list(AGAIN)


def test_what_is_stored_and_takes_long_comes_after_what_is_quick(path, few_metrics, monkeypatch):
    monkeypatch.setattr("analyze.engine.SOON", of_one(path, "margin"))
    seen, finished = [], []
    analyze.run(
        path,
        arrived=lambda results: seen.append((set(results), results.coming)),
        finished=lambda name, data: finished.append(name),
    )
    assert seen[0] == ({"margin"}, ("stiffness", *AGAIN))
    assert finished == ["margin", "stiffness", *AGAIN]


def of_one(path, name):
    """Declared seconds of a metric of what is stored."""
    with tracer.open(path) as archive:
        return of_stored([make_plan(available_metrics()[name], {}, archive, {})], archive)


@pytest.mark.usefixtures("undrawn")
def test_the_page_is_written_at_once_and_says_what_is_coming(
    path, few_metrics, tmp_path, monkeypatch, capsys
):
    pages = []
    monkeypatch.setattr(
        Pages,
        "write",
        lambda self, results, write=Pages.write, **how: pages.append(
            (write(self, results, **how) / "report.html").read_text(encoding="utf-8")
        ),
    )
    monkeypatch.setattr(Pages, "due", True)
    analyze_one(str(path), tmp_path, apart=False, jobs=1)  # a process for the network is asked for elsewhere
    first, *_, last = pages
    assert 'id="margin"' in first and 'id="sharpness"' not in first
    assert "Still computing, in order of cost: " in first
    assert available_metrics()["sharpness"].title in first.partition("Still computing")[2][:400]
    assert "Still computing" not in last and 'id="sharpness"' in last
    assert len(pages) == 4, "first, two more, and the end"
    said = capsys.readouterr().err.splitlines()
    lines = [line for line in said if "to come, in" in line or "in the report" in line]
    assert lines[0].startswith("report: ") and lines[1:] == [
        "1 of 3 are in the report",
        "2 of 3 are in the report",
    ]


@pytest.mark.usefixtures("undrawn")
def test_writing_the_page_takes_a_fifth_of_the_time_at_most(path, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(save.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(save, "write_whole", lambda *_: now.__setitem__(0, now[0] + 1.0))
    with Pages(tmp_path) as pages:
        assert pages.due
        pages.write(analyze.run(path, metrics=["margin"]))
        assert now[0] == 3.0 and not pages.due, "a table, the summary and the page"
        now[0] = 17.9
        assert not pages.due
        now[0] = 18.0
        assert pages.due


def two_panels(result, figure):
    left, right = plot.panels(figure, 2, columns=2, titles=["a long title", "b"], sharey=False)
    left.plot(result["step"], result["a"], label="a line")
    left.set_ylabel("name of the ordinate")
    plot.legend(left)
    plot.heat(right, np.outer(result["a"], result["a"]), colorbar="label of a scale")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center")


@pytest.fixture
def nine():
    return xr.Dataset({"a": ("step", np.arange(9.0))}, {"step": np.arange(9)})


def test_a_figure_is_laid_out_as_matplotlib_does_with_axes_measured_once(nine, monkeypatch):
    measured, measure = [], Axes.get_tightbbox
    ours, theirs, file = plot.draw(two_panels, nine), plot.draw(two_panels, nine), io.StringIO()
    with matplotlib.rc_context(plot.STYLE):
        theirs.savefig(file, format="svg", dpi=MAP_DPI)
    monkeypatch.setattr(
        Axes, "get_tightbbox", lambda axes, *_, **how: measured.append(axes) or measure(axes, *_, **how)
    )
    text = plot.to_svg(ours)
    assert [measured.count(axes) for axes in ours.axes[:2]] == [1, 1], (
        "the colour bar has other ticks when shorter"
    )
    points = 72 * ours.get_size_inches()[[0, 1, 0, 1]]
    for mine, its in zip(ours.axes, theirs.axes, strict=True):
        # Its margins are those of where it stood before.
        assert np.abs(points * (mine.get_position().extents - its.get_position().extents)).max() < 4
    words = re.compile("<text[^>]*>(.*?)</text>")
    assert words.findall(text) == words.findall(file.getvalue())
    box = measure(ours.axes[0]).extents * 72 / ours.dpi
    told = [float(edge) for edge in re.search('data-outer="(.*?)"', text)[1].split()]
    assert np.allclose(told, [box[0], points[1] - box[3], box[2], points[1] - box[1]], atol=4)


@pytest.mark.slow
def test_figures_drawn_beside_are_the_same(path, tmp_path, monkeypatch):
    results = analyze.run(path, list(STORED))
    results.save(tmp_path / "here")
    monkeypatch.setattr(save, "FEW", 1)
    monkeypatch.setattr(save, "cores", lambda: 2)
    with Pages(tmp_path / "beside", workers=True) as pages:
        for name, data in results.items():
            pages.add(name, data)
        assert pages._pool is not None
        pages.write(results)
    for name in STORED:
        for file in (f"figures/{name}.svg", f"tables/{name}.csv"):
            assert (tmp_path / "beside" / file).read_bytes() == (tmp_path / "here" / file).read_bytes()


class Waits(Executor):
    """Begins with nothing."""

    def submit(self, *work):
        return Future()


class Died(Executor):
    """Has ended in the middle of its work, as it says when asked for more."""

    def __init__(self):
        self.asked = 0

    def submit(self, *work):
        self.asked += 1
        if self.asked > 1:
            raise BrokenExecutor
        future = Future()
        future.set_exception(BrokenExecutor())
        return future


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("executor", [Waits, Died])
def test_what_the_other_process_does_not_draw_is_drawn_here(path, tmp_path, monkeypatch, executor):
    results = analyze.run(path, list(STORED))
    monkeypatch.setattr(save, "FEW", 1)
    monkeypatch.setattr(save, "cores", lambda: 2)
    monkeypatch.setattr(save, "pool", lambda n: executor())
    with Pages(tmp_path, workers=True) as pages:
        for name, data in results.items():
            pages.add(name, data)
        pages.write(results)
    for name in STORED:
        assert (tmp_path / "figures" / f"{name}.svg").is_file()
        assert (tmp_path / "tables" / f"{name}.csv").is_file()


@pytest.mark.usefixtures("undrawn")
def test_tables_and_figures_are_written_again_only_for_other_results(path, tmp_path):
    results = analyze.run(path, list(STORED), output=tmp_path)
    results.save(tmp_path)
    files = [tmp_path / "figures" / "margin.svg", tmp_path / "tables" / "margin.csv"]
    before = [file.stat().st_mtime_ns for file in files]
    results.save(tmp_path)
    assert [file.stat().st_mtime_ns for file in files] == before
    other = analyze.run(path, list(STORED), output=tmp_path, options={"margin": {"epsilon": 0.3}})
    other.save(tmp_path)
    assert all(file.stat().st_mtime_ns > mark for file, mark in zip(files, before, strict=True))


@pytest.mark.usefixtures("undrawn")
def test_the_first_page_waits_for_the_figures_that_come_first_alone(path, tmp_path, monkeypatch):
    monkeypatch.setattr("analyze.report.choice.MOST", 1)
    results = analyze.run(path, list(STORED), output=tmp_path)

    def page(pages, **how):
        return (pages.write(results, **how) / "report.html").read_text(encoding="utf-8")

    with Pages(tmp_path) as pages:
        first = page(pages, whole=False)
        made = [path.stem for path in tmp_path.glob("figures/*.svg")]
        assert len(made) == 1 and first.count("This figure is being drawn") == 1
        assert first.count("download>") == 2, "the figure and the numbers of one"
        last = page(pages)
    assert {path.stem for path in tmp_path.glob("figures/*.svg")} == set(STORED)
    assert "This figure is being drawn" not in last and last.count("download>") == 4


@pytest.mark.usefixtures("undrawn")
def test_a_figure_of_earlier_results_is_not_taken_for_one_that_was_not_drawn_any_more(
    path, tmp_path, monkeypatch
):
    monkeypatch.setattr("analyze.report.choice.MOST", 0)
    file = tmp_path / "figures" / "margin.svg"
    analyze.run(path, ["margin"], output=tmp_path).save(tmp_path)
    before = file.stat().st_mtime_ns
    other = analyze.run(path, ["margin"], output=tmp_path, options={"margin": {"epsilon": 0.3}})
    with Pages(tmp_path) as ended_here:
        ended_here.write(other, whole=False)
    assert file.stat().st_mtime_ns == before
    other.save(tmp_path)
    assert file.stat().st_mtime_ns > before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--jobs", "0"], "neither a number of processes nor auto"),
        (["--snapshots", "some"], "is not few, all, or steps such as 0,100,1000"),
        (["--patience", "-1"], "-1"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(path, arguments, said):
    done = CliRunner().invoke(cli.main, ["analyze", str(path), *arguments])
    assert done.exit_code == 2 and said in done.stderr
