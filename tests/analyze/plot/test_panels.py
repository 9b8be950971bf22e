"""How panels are laid out: titles, numbers and widths, whatever the data."""

import numpy as np
import xarray as xr

from analyze import plot
from analyze.plot.time_axis import SCALE
from analyze.report.run import _smooth
from analyze.report.svg import inline


def test_a_title_longer_than_its_panel_is_broken():
    long = "over the squared margin, which is above 0 at 12 of 22 steps, of 1297 examples"

    def two(figure):
        plot.panels(figure, 2, titles=[long, "short"], columns=2)

    figure = plot.styled(two)
    figure.draw_without_rendering()
    left, right = (axes.title.get_window_extent() for axes in figure.axes)
    assert left.x0 >= 0 and left.x1 < right.x0
    assert figure.axes[0].get_title().replace("\n", " ") == long
    assert figure.axes[1].get_title() == "short"


def test_a_panel_alone_is_narrow_with_letters_as_large_as_in_other_figures():
    def width(count):
        text = plot.to_svg(plot.styled(lambda figure: plot.panels(figure, count)))
        return inline(text, "k", "label")[:120]

    assert 'style="--share: 0.611"' in width(1)
    assert 'style="--share: 1.000"' in width(3)


def test_every_panel_has_the_numbers_of_its_axis():
    figure = plot.styled(lambda figure: plot.panels(figure, 5, columns=3))
    assert all(axes.xaxis.get_tick_params()["labelbottom"] for axes in figure.axes)


def test_a_time_axis_of_a_single_decade_has_several_numbers():
    scale = SCALE.set("log")
    try:
        figure = plot.styled(lambda figure: plot.step_axis(plot.panels(figure, 1)[0], [164, 328, 1640]))
    finally:
        SCALE.reset(scale)
    (low, high), ticks = figure.axes[0].get_xlim(), figure.axes[0].get_xticks()
    assert [tick for tick in ticks if low <= tick <= high] == [200, 500, 1000, 2000]


def test_what_is_compared_with_an_earlier_snapshot_begins_where_it_is():
    values = xr.DataArray([[np.nan, np.nan], [np.nan, 1.0], [2.0, 3.0]], dims=("step", "site"))
    result = xr.Dataset({"mean": values, "n": ("step", [0, 1, 2])}, coords={"step": [0, 5, 9]})
    assert plot.compared(result)["step"].values.tolist() == [5, 9]
    assert plot.compared(result * np.nan).sizes["step"] == 3


def test_a_running_mean_stands_at_the_middle_of_what_it_is_the_mean_of():
    steps = np.arange(1.0, 251.0)
    places, means = _smooth(steps, 3 * steps)
    np.testing.assert_allclose(means, 3 * places)
    assert (places[0], places[-1]) == (3.0, 248.0)


def test_a_figure_that_was_saved_is_laid_out_as_before():
    figure = plot.styled(lambda figure: plot.panels(figure, 2))
    plot.to_svg(figure)
    assert all(spine.get_in_layout() for axes in figure.axes for spine in axes.spines.values())
