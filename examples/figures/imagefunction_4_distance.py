"""Path overlap against the distance of images (Gupta 2022, Figure 4).

Claim: how many units two images have in common is not a clean linear function of how far apart they are as images,
so that each image's update is a function of its own.

Here: AlexNet of a quarter and ResNet-18 of an eighth of the width on 10,000 CIFAR-10 images (the paper: 50,000), all
pairs of 128 training images, sixth and second ReLU, after training and before. Distance is Euclidean, between pixels
in [0, 1]; the overlap is the number of units that are on for both. The untrained network says how much of the lack
of a line is learned.

Verdict: not linear: the share of the variance of the overlap that distance explains, after training, is not above one
half, for each network and layer. That would be so, too, if overlap had nothing to do with images, and is no support by
itself. Learned: that share before training less the one after it; 0.1 matters. The second is ours, since a
network that makes functions of its own of images should lose by training what line there was.
"""

import numpy as np
from imagefunction_study import SEEN, record, settings, width
from matplotlib.figure import Figure
from shared import Check, Result, Run, canvas, figure, finish, spread

import analyze
from analyze import plot
from analyze.reference import GUPTA_2022

NETWORKS = ("AlexNet", "ResNet-18")
LAYERS = (6, 2)  # the k-th ReLU


def measure(run: Run, name: str, seed: int) -> Result:
    """By layer: correlations of distance and overlap (when,), and points to draw; when: untrained, trained."""
    path = record(run, name, width(run, name), seed)
    options = {"path_distance": {"points": 1000}}
    results = analyze.run(path, ["path_distance"], options=options, output=path.with_suffix(".distance"))
    found = results["path_distance"].sel(probe="train").isel(step=[0, -1])
    return {
        f"layer {layer}": {
            **{name: found[name].isel(site=layer - 1).values for name in ("pearson", "spearman", "overlap")},
            "distance": found["distance"].values,
        }
        for layer in LAYERS
    }


def draw(found: dict[str, list[Result]]) -> Figure:
    drawing = canvas(2.4)
    panels = drawing.subplots(1, len(NETWORKS) * len(LAYERS), sharex=True)
    cells = [(name, f"layer {layer}") for name in NETWORKS for layer in LAYERS]
    for panel, (name, layer) in zip(panels, cells, strict=True):
        at = found[name][0][layer]
        for k, (label, color) in enumerate((("untrained", plot.GREY), ("trained", plot.PALETTE[0]))):
            style = {"markersize": 1.6, "color": color, "alpha": 0.6, "rasterized": True}
            panel.plot(at["distance"], at["overlap"][k], ".", label=label, **style)
        panel.set(title=f"{name}, {layer}", xlabel="distance |x − x′|", ylim=(0, None))
    panels[0].set_ylabel("units on for both images")
    drawing.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, markerscale=4)
    return drawing


@figure(GUPTA_2022)
def main(run: Run) -> None:
    found = {name: run.each(measure, name) for name in NETWORKS}
    numbers, learned, linear = {}, [], []
    for name, runs in found.items():
        for layer in LAYERS:
            cells = [one[f"layer {layer}"] for one in runs]
            pearson = np.array([cell["pearson"] for cell in cells])
            word = f"{name}, layer {layer}"
            numbers |= {
                f"{word}: Pearson correlation, trained": spread(pearson[:, 1]),
                f"{word}: Spearman correlation, trained": spread([cell["spearman"][1] for cell in cells]),
                f"{word}: Pearson correlation, untrained": spread(pearson[:, 0]),
            }
            before, after = (pearson**2).T
            learned.append(
                Check(f"{word}: training takes linearity away", before - after, 0.1, "of variance")
            )
            linear.append(Check(f"{word}: no clean line", after, 0.5, "of variance", absent=True))
    about = {**settings(run, *NETWORKS), "pairs": SEEN * (SEEN - 1) // 2}
    finish(run, draw(found), numbers, [*learned, *linear], about)


if __name__ == "__main__":
    main()
