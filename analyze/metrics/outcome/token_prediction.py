"""Token prediction: how well is each token predicted, and does the context help?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import mean_defined
from analyze.reference import Reference

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

JELINEK_1977 = Reference(
    key="jelinek1977perplexity",
    authors=("Jelinek, Fred", "Mercer, Robert L.", "Bahl, Lalit R.", "Baker, James K."),
    title="Perplexity: A Measure of the Difficulty of Speech Recognition Tasks",
    year=1977,
    venue="The Journal of the Acoustical Society of America 62 (S1)",
    doi="10.1121/1.2016299",
)
OLSSON_2022 = Reference(
    key="olsson2022context",
    authors=("Olsson, Catherine", "Elhage, Nelson", "Nanda, Neel"),
    title="In-context Learning and Induction Heads",
    year=2022,
    venue="Transformer Circuits Thread",
    arxiv="2209.11895",
)


@metric(
    reads=("token_log_probs", "token_correct"),
    scope="probe",
    makes=(),
    variables={
        "loss": ("step", "probe"),
        "perplexity": ("step", "probe"),
        "accuracy": ("step", "probe"),
        "context_gain": ("step", "probe"),
        "loss_at": ("step", "probe", "token"),
        "accuracy_at": ("step", "probe", "token"),
        "n_tokens": ("step", "probe"),
    },
    bounds={"loss": (0, np.inf), "perplexity": (1, np.inf), "accuracy": (0, 1), "accuracy_at": (0, 1)},
    units={"loss": "nat", "loss_at": "nat", "context_gain": "nat"},
    summary=("loss", "perplexity", "accuracy", "context_gain"),
    title="Prediction of tokens",
    formula="loss = mean over tokens of -ln p(token);  perplexity = exp(loss);  gain = loss early - loss late",
    cost="reads stored tokens; O(steps · examples · tokens)",
    reading=(
        "Perplexity is the number of tokens the network is as unsure between. A curve over positions that falls says "
        "that what came before in the same text helps; flat from the first tokens on, that it does not."
    ),
    reference=(JELINEK_1977, OLSSON_2022),
)
def token_prediction(
    token_log_probs: np.ndarray, token_correct: np.ndarray, *, share: float = 0.25
) -> dict[str, Any]:
    """Loss, perplexity and accuracy over tokens, by position, and how much less the loss is late in a text.

    `token_log_probs` and `token_correct` are (step, example, token): logarithm of the probability of the target, and 1
    where it has the largest score; NaN where the loss leaves a token out, which no mean counts. `loss` is the mean of
    -ln p over the `n_tokens` of all examples alike, so that long texts count more than in a mean over examples.
    `loss_at` and `accuracy_at` are the means at each position over examples. `context_gain` is the mean of `loss_at`
    over the first `share` of positions minus that over the last (in the second paper, of the 50th and the 500th of 512
    tokens, with the other sign). NaN where no token counts; infinite where a target has probability 0.

    >>> result = token_prediction(np.log([[[0.25, 0.5]]]), np.array([[[0.0, 1.0]]]), share=0.5)
    >>> result["perplexity"].round(4).tolist(), result["context_gain"].round(4).tolist()
    ([2.8284], [0.6931])
    """
    steps, _, length = token_log_probs.shape
    losses = -token_log_probs
    loss, used = mean_defined(losses.reshape(steps, -1), 1)
    loss_at, _ = mean_defined(losses, 1)
    few = max(1, round(share * length))
    early, late = (mean_defined(loss_at[:, cut], 1)[0] for cut in (slice(few), slice(length - few, None)))
    with np.errstate(over="ignore", invalid="ignore"):
        perplexity, gain = np.exp(loss), early - late
    return {
        "loss": loss,
        "perplexity": perplexity,
        "accuracy": mean_defined(token_correct.reshape(steps, -1), 1)[0],
        "context_gain": gain,
        "loss_at": loss_at,
        "accuracy_at": mean_defined(token_correct, 1)[0],
        "n_tokens": used,
        "token": np.arange(length),
    }


def plot_token_prediction(result: xr.Dataset, figure: Figure) -> None:
    """Perplexity and accuracy against training, and the loss at each position at a few steps."""
    from matplotlib.ticker import LogFormatter

    left, middle, right = plot.panels(figure, 3, columns=3, height=2.6, sharex=False, sharey=False)
    names = [str(name) for name in result["probe"].values]
    for panel, variable in ((left, "perplexity"), (middle, "accuracy")):
        for k, name in enumerate(names):
            values = result[variable].sel(probe=name)
            plot.line(panel, result["step"], values, label=name, color=plot.color_of(name, k))
        plot.step_axis(panel, result["step"])
        panel.set(title=variable)
        plot.legend(panel)
    if np.nanmax(result["perplexity"].values, initial=0.0) > 0:
        plot.log_scale(left)
        left.yaxis.set_major_formatter(LogFormatter())
        left.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    last = names[-1]
    shown = plot.pick(result["step"].values, 4)
    for color, at in zip(plot.depth_colors(len(shown)), shown, strict=True):
        row = result["loss_at"].sel(probe=last).isel(step=at)
        plot.line(right, result["token"], row, color=color, label=f"step {int(result['step'][at]):,}")
    right.set(title=f"loss at each position, {last}", xlabel="token", ylabel="nat")
    plot.legend(right)
