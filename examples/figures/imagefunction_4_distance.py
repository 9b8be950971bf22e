"""Path overlap against the distance of images (Gupta 2022, Figure 4).

Claim: how many units two images have in common is not a clean linear function of how far apart they are as images,
so that each image's update is a function of its own.

Here: AlexNet of a quarter and ResNet-18 of an eighth of the width on 2,000 CIFAR-10 images (the paper: 50,000), all
pairs of 128 training images, sixth and second ReLU, after training and before. Distance is Euclidean, between pixels
in [0, 1]; the overlap is the number of units that are on for both. The untrained network says how much of the lack
of a line is learned.

Verdict: not linear: after training, distance explains less than half of the variance of the overlap, for each network
and layer.
"""

import xarray as xr
from imagefunction_study import SEEN, record, settings, width
from matplotlib.figure import Figure
from shared import Run, canvas, figure, finish

import analyze
from analyze import plot
from analyze.reference import GUPTA_2022

NETWORKS = ("AlexNet", "ResNet-18")
LAYERS = (6, 2)  # the k-th ReLU


def measure(run: Run, name: str) -> xr.Dataset:
    """Correlation of distance and overlap at every site, and points to draw, before and after training."""
    path = record(run, name, width(run, name), run.seed)
    options = {"path_distance": {"points": 1000}}
    results = analyze.run(path, ["path_distance"], options=options, output=path.with_suffix(".analysis"))
    return results["path_distance"].sel(probe="train").isel(step=[0, -1])


def draw(found: dict[str, xr.Dataset]) -> Figure:
    drawing = canvas(2.4)
    panels = drawing.subplots(1, len(NETWORKS) * len(LAYERS), sharex=True)
    cells = [(name, layer) for name in NETWORKS for layer in LAYERS]
    for panel, (name, layer) in zip(panels, cells, strict=True):
        at = found[name].isel(site=layer - 1)
        for k, (label, color) in enumerate((("untrained", plot.GREY), ("trained", plot.PALETTE[0]))):
            style = {"markersize": 1.6, "color": color, "alpha": 0.6, "rasterized": True}
            panel.plot(at["distance"], at["overlap"].isel(step=k), ".", label=label, **style)
        panel.set(title=f"{name}, layer {layer}", xlabel="distance |x − x′|", ylim=(0, None))
    panels[0].set_ylabel("units on for both images")
    drawing.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, markerscale=4)
    return drawing


@figure(GUPTA_2022)
def main(run: Run) -> None:
    found = {name: measure(run, name) for name in NETWORKS}
    numbers, checks = {}, {}
    for name, one in found.items():
        for layer in LAYERS:
            before, after = one["pearson"].isel(site=layer - 1).values
            rank = float(one["spearman"].isel(site=layer - 1)[-1])
            word = f"{name}, layer {layer}"
            numbers |= {
                f"{word}: Pearson correlation, trained": after,
                f"{word}: Spearman correlation, trained": rank,
                f"{word}: Pearson correlation, untrained": before,
            }
            checks[f"{word}: distance explains less than half of the overlap"] = after**2 < 0.5
    about = {**settings(run, *NETWORKS), "seed": run.seed, "pairs": SEEN * (SEEN - 1) // 2}
    finish(run, draw(found), numbers, checks, about)


if __name__ == "__main__":
    main()
