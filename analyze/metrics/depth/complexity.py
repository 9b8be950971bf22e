"""Complexity: how much is there to see in an input, before any network looks at it?"""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.reference import GAIN_2019
from tracer.complexity import entropy_of, scaled, value_range
from tracer.errors import ArgumentError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


@metric(
    reads=("inputs",),
    optional=("raw",),
    variables={"entropy": ("example",), "compression": ("example",)},
    bounds={"entropy": (0, np.inf), "compression": (0, np.inf)},
    units={"entropy": "bit"},
    summary=("entropy", "compression"),
    makes=(),
    title="Input complexity",
    formula="α(x) = -Σ_b p_b log2 p_b",
    cost="one histogram and one compression an example, once",
    reading="How different the inputs are in complexity. Without spread here, the CNA has nothing to go by.",
    reference=GAIN_2019,
)
def complexity(
    inputs: np.ndarray,
    *,
    raw: np.ndarray | None = None,
    bins: int = 1000,
    codec: Literal["zlib", "png"] = "zlib",
    level: int = 9,
) -> dict[str, Any]:
    """Shannon entropy of the values of each input, and how far it can be compressed.

    `inputs` and, where recorded, `raw` (inputs before normalisation) are (example, ...). The entropy, in
    bits, is that of a histogram of all values of one input in `bins` equal bins; `compression` is the size
    of the input as uint8, compressed by `codec` at `level`, over its original size. The range is [0, 1] for
    `raw`, or inputs, that lie in it (uint8 is divided by 255); otherwise the smallest to the largest value
    of any probe; attributes `range` and `source` say which it was. NaN for an input with a value that is
    not finite. `codec="png"` needs (example, height, width) or (example, channel, height, width) with 1 or
    3 channels.

    >>> complexity(np.array([[0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]]))["entropy"]
    array([1., 0.])
    """
    values, low, high, source = value_range(inputs, raw)
    rows = values.reshape(len(values), -1)
    entropies, ratios = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        # Scaled one at a time: a float64 copy of all inputs could be large.
        unit = scaled(row, low, high)
        if np.isfinite(row).all() and row.size:
            entropies[i] = entropy_of(unit, bins)
            pixels = np.rint(unit * 255).astype(np.uint8).reshape(values.shape[1:])
            ratios[i] = len(compress(pixels, codec, level)) / pixels.size
    about = {"range": f"{low:g} to {high:g}", "source": source, "bins": bins, "codec": codec, "level": level}
    return {"entropy": entropies, "compression": ratios, "attrs": about}


def compress(pixels: np.ndarray, codec: str, level: int) -> bytes:
    """Compressed bytes of a uint8 input."""
    if codec == "zlib":
        return zlib.compress(pixels.tobytes(), level)
    if codec != "png":
        raise ArgumentError(f"codec is 'zlib' or 'png', got {codec!r}")
    from PIL import Image

    image = pixels.squeeze(0) if pixels.ndim == 3 and len(pixels) == 1 else pixels
    if image.ndim == 3 and len(image) == 3:
        image = np.ascontiguousarray(image.transpose(1, 2, 0))
    elif image.ndim != 2:
        raise ArgumentError(
            f"png takes 1 or 3 channels of pixels, got an input of shape {pixels.shape}; use zlib"
        )
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=level)
    return file.getvalue()


def plot_complexity(result: xr.Dataset, figure: Figure) -> None:
    """Histograms over examples, one colour a probe."""
    axes = plot.panels(figure, 2, columns=2, height=2.6, sharex=False, sharey=False)
    probes = result["probe"].values
    for panel, name, label in zip(
        axes, ("entropy", "compression"), ("entropy (bit)", "compressed / original bytes"), strict=True
    ):
        values = result[name].values
        edges = np.linspace(*plot.finite_limits(values), 31)
        for k, probe in enumerate(dict.fromkeys(probes)):
            chosen = values[(probes == probe) & np.isfinite(values)]
            if not len(chosen):
                continue
            style: Any = {"histtype": "stepfilled", "alpha": 0.5, "color": plot.color_of(str(probe), k)}
            panel.hist(chosen, list(edges), density=True, label=str(probe), **style)
        panel.set_xlabel(label)
    axes[0].set_ylabel("density of examples")
    plot.legend(axes[0])
