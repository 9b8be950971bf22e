"""What is written in a figure has room: nothing runs into its neighbours or over the edge."""

import io
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_svg import RendererSVG

from analyze import plot
from analyze.plot.time_axis import SCALE


def boxes(labels):
    return [label.get_window_extent() for label in labels if label.get_text()]


SOME = (3, 39_000, 4_000_000)
# Of some lengths of a run the narrowest and the widest panels, one on each scale; the rest is slow.
AXES = [
    pytest.param(
        scale, columns, last, marks=[] if last in SOME and (scale, columns) in ends else pytest.mark.slow
    )
    for number, last in enumerate([3, 40, 1640, 39_000, 200_000, 4_000_000])
    for ends in [(("linear", 4), ("log", 1)) if number % 2 else (("log", 4), ("linear", 1))]
    for scale in ("linear", "log")
    for columns in (1, 2, 4)
]


@pytest.mark.parametrize(("scale", "columns", "last"), AXES)
def test_numbers_of_a_time_axis_stand_clear_of_each_other(scale, columns, last):
    told = SCALE.set(scale)
    try:
        figure = plot.styled(lambda figure: plot.panels(figure, columns, columns=columns))
        for axes in figure.axes:
            plot.step_axis(axes, np.linspace(0, last, 4))
        figure.draw_without_rendering()
    finally:
        SCALE.reset(told)
    for axes in figure.axes:
        low, high = sorted(axes.get_xlim())
        ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
        shown = boxes(label for at, label in ticks if low <= at <= high)
        assert len(shown) >= 2
        assert all(left.x1 < right.x0 for left, right in pairwise(shown))


@pytest.mark.parametrize("smallest", [1e-2, 1e-13])
def test_powers_beside_an_axis_stand_clear_of_each_other(smallest):
    def one(figure):
        (axes,) = plot.panels(figure, 1)
        plot.line(axes, [0, 1, 2], [0, smallest, 1e4])
        axes.set_yscale("symlog", linthresh=smallest)
        axes.set_ylim(0, 1e4)

    figure = plot.styled(one)
    figure.draw_without_rendering()
    shown = boxes(figure.axes[0].get_yticklabels())
    assert len(shown) >= 3
    assert all(below.y1 < above.y0 + 1 for below, above in pairwise(shown[1:]))


@pytest.mark.parametrize(
    "low", [-0.27, *(pytest.param(low, marks=pytest.mark.slow) for low in (-0.24, -0.12, 0.1))]
)
def test_numbers_that_change_as_the_panels_move_are_not_cut_off(low):
    def matrices_and_curves(figure):
        axes = plot.panels(figure, 5, height=2.3, titles=["cosine"] * 3, sharex=False, sharey=False)
        for panel in axes[:3]:
            image = plot.heat(panel, np.eye(6))
            panel.set_aspect("equal")
            panel.set_xlabel("class")
            plot.name_ticks(panel.yaxis, range(6))
        figure.colorbar(image, ax=axes[:3], shrink=0.8)
        for panel in axes[3:]:
            plot.line(panel, [0, 1], [low, 0.99], label="within")
            plot.step_axis(panel, [0, 40])
            panel.set_title("cosine")
            plot.legend(panel)

    assert edges(plot.styled(matrices_and_curves))[0] >= 0


def test_a_title_does_not_run_over_the_edge():
    title = "24.act relu 8×10×10, around position 15"

    def named(figure):
        for axes in plot.panels(figure, 6, titles=[title] * 6, sharey=False):
            axes.set(ylabel="rank (0 = nearest)", ylim=(0, 1000))

    left, right = edges(plot.styled(named))
    assert left >= 0 and right <= 72 * plot.WIDTH


def edges(figure):
    """Left and right of all that a figure holds, in points, as its document has it."""
    plot.to_svg(figure)
    figure.dpi = 72
    width, height = 72 * figure.get_size_inches()
    renderer = RendererSVG(width, height, io.StringIO(), image_dpi=72)
    with matplotlib.rc_context(plot.STYLE):
        reach = [axes.get_tightbbox(renderer) for axes in figure.axes]
    return min(box.x0 for box in reach), max(box.x1 for box in reach)


def test_of_the_lines_of_a_deep_network_a_few_are_named():
    def many(figure):
        (axes,) = plot.panels(figure, 1)
        for k in range(30):
            plot.line(axes, [0, 1], [k, k], label=f"layer {k}")
        plot.legend(axes)

    (legend,) = plot.styled(many).legends
    names = [text.get_text() for text in legend.get_texts()]
    assert len(names) == 8 and (names[0], names[-1]) == ("layer 0", "layer 29")


@pytest.mark.parametrize("columns", [1, 3])
def test_names_beside_a_panel_leave_it_room_and_tell_layers_apart(columns):
    layers = [f"{k}.convolution_with_a_long_name conv2d 8→8 3×3" for k in range(6)]

    def heats(figure):
        for panel in plot.panels(figure, columns, sharey=False):
            plot.heat(panel, np.eye(6))
            plot.name_ticks(panel.yaxis, layers)

    figure = plot.styled(heats)
    plot.to_svg(figure)
    for axes in figure.axes:
        names = [label.get_text() for label in axes.get_yticklabels()]
        assert len(set(names)) == 6 and all(name.startswith(f"{k}.") for k, name in enumerate(names))
        assert axes.get_position().width > 0.35 / columns


@pytest.mark.parametrize("size", [3e-6, 1e-5, 2.0, 5e7, 4e12])
def test_no_power_stands_in_the_title(size):
    def one(figure):
        (axes,) = plot.panels(figure, 1, titles=["cosine"])
        plot.line(axes, [0, 1], [-size, size])

    figure = plot.styled(one)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert axes.yaxis.get_offset_text().get_text() == ""
    told = [label.get_text().replace("−", "-") for label in axes.get_yticklabels()]
    np.testing.assert_allclose(
        [float(number) for number in told], axes.get_yticks(), rtol=1e-2, atol=1e-3 * size
    )
