"""Measures of capacity on true and on random labels (Neyshabur et al. 2017; Bruckner 2019, Figures 1 and 2).

Claim: fitted to random labels, a network has a larger norm over the margin than fitted to the true ones, at
every size of the training set and by all four norms; and with the size this grows more, as each further
example has to be learned by heart. Sharpness does not tell them apart so clearly. Bruckner could not repeat
this: the path norms of convolutions were out of reach, and the network did not fit random labels.

Here: subsets of CIFAR-10 up to 6,400 images (the paper: 50,000) and a small convolutional network in place of
VGG, both trained to nearly the same loss. Path norms of convolutions are exact.

Verdict: of networks that fit, with a training error below 1 %. For each norm, by the logarithm (base 10) of its ratio,
random over true. Larger: at the size where it is least; 0.1 matters (a quarter more). Grows more: its slope over
doublings of the size; 0.03 matters (7 % a doubling). Sharpness is not larger with random labels at every size: by 0.02
where the difference is least.
"""

from functools import partial

from capacity_labels import both, checks, draw, measured, numbers
from capacity_runs import SETTINGS, network
from shared import Result, Run, figure, finish

from analyze.reference import BRUCKNER_2019, NEYSHABUR_2017


def one(run: Run, size: int, labels: str, seed: int) -> Result:
    """Measures of one network."""
    return measured(run, "cifar10", partial(network, run), size, labels, seed)


@figure(NEYSHABUR_2017, BRUCKNER_2019)
def main(run: Run) -> None:
    sizes = run.pick(quick=(50, 100), gallery=(400, 800, 1600, 3200, 6400), full=(1000, 2000, 4000, 8000))
    found = both(run, one, sizes)
    settings = {
        "data": f"CIFAR-10, {', '.join(map(str, sizes))} training and 1,000 test images; random labels are drawn",
        "network": "VGG-16"
        if run.scale == "full"
        else "mean of 2 by 2 pixels, convolutions of 16, 32, 64 channels, "
        "each with max pooling, Linear 128 and 10",
        **SETTINGS,
    }
    finish(run, draw(sizes, found), numbers(found, sizes), checks(found), settings)


if __name__ == "__main__":
    main()
