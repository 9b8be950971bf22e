"""What the figures of a report carry: values that can be pointed at, and views that can be turned over."""

import base64
import io
import itertools
import json
import re
from html import unescape

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image

from analyze import plot
from analyze.plot import hover
from analyze.report import explore, svg
from tests import report_data as data


def carried(text):
    return [json.loads(unescape(panel)) for panel in re.findall(r"data-panel='([^']*)'", text)]


def drawn(plotted, result=None):
    return plot.to_svg(plot.draw(plotted, xr.Dataset() if result is None else result))


def test_a_line_carries_its_values_where_they_are_drawn():
    def lines(_, figure):
        (axes,) = plot.panels(figure, 1)
        plot.line(axes, [0, 10, 40], [0.5, np.nan, 1.0], label="train", color="#0072B2")
        plot.line(axes, [0, 10, 40], [0.1, 0.2, 0.3])  # without a name, beside one that has one
        plot.zero_line(axes)
        axes.set_xlabel("step")

    text = drawn(lines)
    (panel,) = carried(text)
    (line,) = panel["lines"]
    assert (line["name"], line["color"], line["y"]) == ("train", "#0072b2", [0.5, None, 1.0])
    assert panel["x"] == "step" and panel["xs"][0]["names"] == ["0", "10", "40"]
    left, top, right, bottom = panel["box"]
    assert all(left <= x <= right for x in panel["xs"][0]["at"])
    assert top <= line["at"][2] < line["at"][0] <= bottom and line["at"][1] is None
    # The first point is where the path of the line begins.
    x, y = panel["xs"][0]["at"][0], line["at"][0]
    starts = [tuple(map(float, found)) for found in re.findall(r'd="M ([\d.]+) ([\d.]+)', text)]
    assert any(abs(x - a) < 0.1 and abs(y - b) < 0.1 for a, b in starts)


def test_a_map_carries_its_cells_with_full_names():
    long = "features.denseblock4.denselayer16.conv2"

    def heat(_, figure):
        (axes,) = plot.panels(figure, 1)
        values = [[0.1, 0.2, np.nan], [1, 2, 3.00004]]
        plot.heat_over_time(axes, values, [0, 5, 9], ["fc1", long], colorbar="norm")

    text = drawn(heat)
    panel, cells = carried(text)[0], carried(text)[0]["cells"]
    assert cells["columns"] == ["0", "5", "9"]
    assert cells["values"] == [[0.1, 0.2, None], [1.0, 2.0, 3.0]]
    # A snapshot reaches half way to its neighbours, on the time axis that lines have.
    assert panel["time"] == {"scale": "linear", "linear": [-0.45, 9.45], "log": [-0.4, 11.7]}
    left, _, right, _ = panel["box"]
    at = [left + (right - left) * (step + 0.45) / 9.9 for step in (-0.45, 2.5, 7.0, 9.45)]
    assert panel["map"]["edges"] == pytest.approx(at, abs=0.11)
    pixels = Image.open(io.BytesIO(base64.b64decode(panel["map"]["png"])))
    assert pixels.size == (3, 2) and pixels.getpixel((2, 0))[3] == 0, (
        "a pixel a cell, nothing where undefined"
    )
    assert cells["rows"] == ["fc1", long] and cells["what"] == "norm"
    assert long not in re.sub(r"data-panel='[^']*'", "", text), "on the axis it is shortened"
    assert cells["box"] == pytest.approx(panel["box"], abs=0.2)


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_lines_and_maps_have_one_time_axis(scale):
    steps = [0, 1, 10, 100]

    def both(_, figure):
        above, below = plot.panels(figure, 2, columns=1, sharex=False, sharey=False)
        plot.line(above, steps, steps)
        plot.step_axis(above, steps)
        plot.heat_over_time(below, np.ones((2, 4)), steps, ["a", "b"])

    figure = plot.draw(both, xr.Dataset(attrs={"time_axis": scale}))
    above, below = figure.axes
    assert above.get_xlim() == below.get_xlim() and above.get_xscale() == below.get_xscale()
    one, other = (panel["time"] for panel in carried(plot.to_svg(figure)))
    assert one == other and one["scale"] == scale


def test_maps_turn_dark_only_where_nothing_is_lightest():
    figure = Figure()
    axes = figure.subplots(1, 2)
    for one, cmap in zip(axes, (plot.DIVERGING, plot.SEQUENTIAL), strict=True):
        plot.heat(one, [[-1.0, 1.0]], cmap=cmap, colorbar="x")
    assert [hover.pale(one) for one in figure.axes] == [True, False, True, False]


def test_points_and_bars_can_be_named():
    def points(_, figure):
        left, right = plot.panels(figure, 2, sharex=False, sharey=False)
        plot.name_points(left.scatter([1.0, 2.0], [3.0, 4.0]), ["w32", "w64"])
        right.barh([0, 1], [0.25, -0.5], label="Kendall")
        plot.name_ticks(right.yaxis, ["margin", "cna"])

    left, right = carried(drawn(points))
    assert [(p["name"], p["xs"], p["ys"]) for p in left["points"]] == [("w32", 1.0, 3.0), ("w64", 2.0, 4.0)]
    assert [(p["name"], p["xs"]) for p in right["points"]] == [
        ("margin, Kendall", 0.25),
        ("cna, Kendall", -0.5),
    ]


def test_names_of_many_rows_do_not_lie_on_one_another():
    figure = plot.styled(lambda figure: plot.heat_over_time(
        plot.panels(figure, 4, columns=2, height=2.4)[2], np.eye(25), range(25), [f"layer {k}" for k in range(25)]
    ))  # fmt: skip
    figure.draw_without_rendering()
    names = [text for text in figure.axes[2].get_yticklabels() if text.get_text()]
    boxes = sorted((text.get_window_extent() for text in names), key=lambda box: box.y0)
    assert len(names) >= 5 and all(below.y1 <= above.y0 for below, above in itertools.pairwise(boxes))
    assert {"layer 0", "layer 24"} <= {text.get_text() for text in names}


def test_names_of_many_columns_do_not_lie_on_one_another():
    classes = np.arange(0, 1000, 9)
    figure = plot.styled(lambda figure: _columns(figure, classes))
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert len(boxes) > 2 and all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


def _columns(figure, classes):
    for axes in plot.panels(figure, 3):
        plot.heat(axes, np.zeros((2, len(classes))))
        plot.name_ticks(axes.xaxis, classes, limit=10)


def test_a_panel_without_a_defined_value_says_so():
    figure = plot.styled(_some_undefined)
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [
        [],
        ["undefined"],
        ["too few"],
        [],
    ]


def _some_undefined(figure):
    whole, without, told, _ = plot.panels(figure, 4)
    plot.line(whole, [0, 1], [np.nan, 1.0])
    for axes in (without, told):
        plot.line(axes, [0, 1], [np.nan, np.nan])
        plot.zero_line(axes)
    told.text(0, 0, "too few")


def test_long_lines_and_large_maps_stay_small():
    def large(_, figure):
        left, right = plot.panels(figure, 2, sharex=False, sharey=False)
        left.plot(np.arange(100_000.0), np.zeros(100_000))
        plot.heat(right, np.zeros((100, 100)))

    (panel,) = carried(drawn(large))
    assert len(panel["lines"][0]["y"]) == hover.POINTS and panel["xs"][0]["names"][-1] == "99999"


def test_a_profile_is_turned_over_by_snapshot_and_by_layer():
    result = data.honest()["stiffness"]
    found = explore.explore(result, ["sign", "cosine"])
    assert [view["name"] for view in found["views"]] == ["Through the layers", "By layer"]
    through, by = found["views"]
    assert (through["x"], through["series"], through["slider"]) == ("layer", "pair", "step")
    assert (by["x"], by["series"]) == ("step", "pair") and by["variables"] == ["sign", "cosine"]
    held = found["variables"]["cosine"]
    assert held["values"] == result["cosine"].values.ravel().tolist()
    assert [dim["name"] for dim in held["dims"]] == ["step", "pair", "layer"]
    assert held["dims"][0]["at"][0] == 0 and held["dims"][0]["at"][-1] == 1


def test_a_matrix_is_turned_over_by_snapshot_within_the_budget():
    n = 30
    values = np.linspace(-1, 1, 40 * n * n).reshape(40, n, n)
    result = xr.Dataset({"between": (("step", "site", "site_2"), values)}, {"step": np.arange(40)})
    found = explore.explore(result)
    assert found["views"][0] | {"variables": 0} == {
        "name": "By snapshot", "rows": "site", "columns": "site_2", "slider": "step", "variables": 0,
    }  # fmt: skip
    held = found["variables"]["between"]
    assert len(held["values"]) <= explore.BUDGET and held["limits"][1] == 1.0
    steps = held["dims"][0]["labels"]
    assert steps[0] == "0" and steps[-1] == "39"
    wide = xr.Dataset({"b": (("step", "site", "site_2"), np.zeros((2, 80, 80)))}, {"step": [0, 1]})
    assert explore.explore(wide) is None


def test_examples_are_shown_as_shares_of_each_probe():
    score = np.array([[0.0, 0.1, 1.0, 1.0], [0.0, 0.0, 0.9, 3.0]])
    probe = ("example", ["train", "train", "train", "test"])
    result = xr.Dataset({"score": (("step", "example"), score)}, {"step": [0, 5], "example_probe": probe})
    held = explore.explore(result)["variables"]["score, share of examples"]
    values = np.reshape(held["values"], [len(dim["labels"]) for dim in held["dims"]])
    assert values.shape == (2, 2, explore.BINS) and held["dims"][1]["labels"] == ["train", "test"]
    np.testing.assert_allclose(values.sum(-1), 1, atol=0.01)
    assert values[0, 0, 0] == pytest.approx(1 / 3, abs=0.01) and values[1, 1, -1] == 1


def test_what_does_not_change_in_time_or_only_qualifies_has_no_view():
    assert explore.explore(xr.Dataset({"ratio": ("site", [1.0, 2.0])})) is None
    assert explore.explore(xr.Dataset({"mean_std": (("step", "layer"), np.ones((3, 2)))})) is None
    undefined = xr.Dataset({"x": (("step", "layer"), np.full((3, 2), np.nan))}, {"step": [0, 1, 2]})
    assert explore.explore(undefined) is None


def test_colours_of_figures_have_a_value_for_dark_paper():
    def line(_, figure):
        (axes,) = plot.panels(figure, 1)
        axes.plot([0, 1], [0, 1], color="#440154")

    text = svg.fragment(lambda: plot.draw(line, xr.Dataset()), "k", "A line")
    assert "var(--ink-440154,#440154)" in text and "stroke: #000000" not in text and "currentColor" in text
    css = svg.dark_inks(text)
    assert f"--ink-440154:{svg.on_dark('#440154')};" in css and ".pale{--ink-440154:initial;}" in css
    shown = [int(svg.on_dark("#440154")[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    contrast = (svg.luminance(shown) + 0.05) / (svg.luminance(svg.DARK) + 0.05)
    assert svg.CONTRAST <= contrast < svg.CONTRAST + 0.5
