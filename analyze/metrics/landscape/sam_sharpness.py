"""SAM sharpness: how much higher is the loss one step up the gradient?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.reference import Reference
from analyze.replay.neighbourhood import Neighbourhood, rise_axis

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

FORET_2021 = Reference(
    key="foret2021sharpness",
    authors=("Foret, Pierre", "Kleiner, Ariel", "Mobahi, Hossein", "Neyshabur, Behnam"),
    title="Sharpness-Aware Minimization for Efficiently Improving Generalization",
    year=2021,
    arxiv="2010.01412",
)
KWON_2021 = Reference(
    key="kwon2021asam",
    authors=("Kwon, Jungmin", "Kim, Jeongseop", "Park, Hyunseo", "Choi, In Kwon"),
    title="ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural Networks",
    year=2021,
    arxiv="2102.11600",
)
RHO = (0.01, 0.05, 0.1, 0.5, 1.0)


@metric(
    reads=("states",),
    variables={
        "sam": ("step", "rho"),
        "asam": ("step", "rho"),
        "gradient_norm": ("step",),
        "n_examples": (),
    },
    scope="train",
    bounds={"gradient_norm": (0, np.inf)},
    units={"sam": "nat", "asam": "nat"},
    summary={"sam": {"rho": "0.05"}, "asam": {"rho": "0.5"}, "gradient_norm": {}},
    title="SAM sharpness",
    formula="L(w + ρ g/|g|) - L(w);  ASAM: L(w + ρ T²g/|Tg|) - L(w), T = |w|",
    cost="1 gradient and 1 + 2 · radii forward passes a step: by default 11 of at most 512 examples",
    reading=(
        "The rise of the loss at a distance ρ up the gradient. ASAM measures distance in units of each "
        "weight, so that rescaling hidden units, which changes no output, does not change it."
    ),
    reference=(FORET_2021, KWON_2021),
    passes=lambda options, snapshots: snapshots * (3 + 2 * len(options["rho"])),
)
def sam_sharpness(
    states: Any,
    *,
    rho: Sequence[float] = RHO,
    eta: float = 0.0,
    examples: int | None = 512,
) -> dict[str, Any]:
    """Rise of the training loss after one step up its gradient, as SAM and ASAM take it.

    `states` holds the network at every snapshot. L is the mean loss of the first `examples` training
    examples (None: all) in eval mode, g its gradient by all trainable parameters w. `sam` (step, rho) = L(w
    + ρ g/|g|) - L(w) at the radii `rho`; `asam` (step, rho) = L(w + ρ T²g/|Tg|) - L(w), where T multiplies
    each parameter by |w_i| + `eta`. Both can be negative where the step leaves the region in which the
    gradient holds. `gradient_norm` (step,) is |g|. NaN where the gradient (or Tg) is 0 or not finite.

    >>> import torch
    >>> w = torch.tensor([3.0, 4.0])
    >>> [round(move.norm().item(), 4) for move in steps_up(2 * w, w.abs())]  # |T²g| / |Tg| for ASAM
    [1.0, 3.7838]
    """
    import torch

    chosen = states.examples(examples)
    values = {name: np.full((len(states), len(rho)), np.nan) for name in ("sam", "asam")}
    norm = np.full(len(states), np.nan)
    for position in range(len(states)):
        near = Neighbourhood(states[position], chosen)
        zero = torch.zeros_like(near.weights)
        base, gradient = near.both(zero)
        norm[position] = float(torch.linalg.vector_norm(gradient.double()))
        moves = steps_up(gradient, near.weights.abs() + eta)
        for name, move in zip(values, moves, strict=True):
            for k, radius in enumerate(rho):
                if bool(torch.isfinite(move).all()):
                    values[name][position, k] = near.loss(radius * move) - base
    return {
        **values,
        "gradient_norm": norm,
        "n_examples": chosen.n,
        "rho": np.array(rho, np.float64),
        "attrs": {"eta": eta},
    }


def steps_up(gradient: Any, scale: Any) -> tuple[Any, Any]:
    """Moves of SAM and ASAM for radius 1, (P,) each; NaN where there is no direction."""
    import torch

    gradient, scale = gradient.double(), scale.double()
    return tuple(
        t * (t * gradient) / torch.linalg.vector_norm(t * gradient) for t in (torch.ones_like(scale), scale)
    )


def plot_sam_sharpness(result: xr.Dataset, figure: Figure) -> None:
    """Both measures against training, one line for each radius."""
    axes = plot.panels(
        figure, 2, columns=2, height=2.7, sharey=False, titles=("SAM", "ASAM (in units of |w|)")
    )
    radii = result["rho"].values
    for panel, name in zip(axes, ("sam", "asam"), strict=True):
        for k, color in enumerate(plot.depth_colors(len(radii))):
            plot.line(panel, result["step"], result[name].isel(rho=k), color=color, label=f"ρ = {radii[k]:g}")
        plot.zero_line(panel)
        plot.step_axis(panel, result["step"])
        rise_axis(panel, result[name].values)
    axes[0].set_ylabel("rise of the training loss")
    plot.legend(axes[1])
