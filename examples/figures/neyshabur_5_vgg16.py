"""Measures of capacity of VGG-16 on true and on random labels (Neyshabur et al. 2017; Bruckner 2019, Figures 1 and 2).

Claim: fitted to random labels, VGG-16 with BatchNorm has larger norms over the margin than fitted to the true ones, and
with the size of the training set they grow more. Bruckner's network of this kind did not fit random labels, and the
path norms of its convolutions were out of reach.

Here: the papers' network with an eighth of the channels (8 to 64) on 250, 500 and 1,000 images of CIFAR-10 (the
paper: up to 50,000), trained to nearly the same loss; both labels are fitted. BatchNorm is folded into the convolutions
before it, as it acts in evaluation: without that, weights may be scaled at will and norms say nothing.

Verdict: of networks that fit, with a training error below 1 %. For each norm, by the logarithm (base 10) of its ratio,
random over true. Larger: at the size where it is least; 0.1 matters (a quarter more). Grows more: its slope over
doublings of the size; 0.03 matters (7 % a doubling). Sharpness is not larger with random labels at every size: by 0.02
where the difference is least.
"""

from functools import partial

from capacity_labels import both, checks, draw, measured, numbers
from capacity_runs import SETTINGS
from shared import Result, Run, figure, finish, vgg

from analyze.reference import BRUCKNER_2019, NEYSHABUR_2017


def width(run: Run) -> int:
    """Channels of the first convolution; the papers' networks have 64."""
    return run.pick(quick=2, gallery=8, full=64)


def one(run: Run, size: int, labels: str, seed: int) -> Result:
    """Measures of one network."""
    units = width(run)
    return measured(run, f"vgg16-{units}", partial(vgg, 16, units), size, labels, seed)


@figure(NEYSHABUR_2017, BRUCKNER_2019)
def main(run: Run) -> None:
    sizes = run.pick(quick=(48, 96), gallery=(250, 500, 1000), full=(1000, 2000, 4000, 8000))
    found = both(run, one, sizes)
    settings = {
        "data": f"CIFAR-10, {', '.join(map(str, sizes))} training and 1,000 test images; random labels are drawn",
        "network": f"VGG-16 with BatchNorm, {width(run)} channels at first, {8 * width(run)} at last",
        **SETTINGS,
    }
    finish(run, draw(sizes, found), numbers(found, sizes), checks(found), settings)


if __name__ == "__main__":
    main()
