"""What the scripts of this folder share: their options, training and recording, and what they leave behind.

A script is one figure of one paper. Its docstring is the text of its page in docs/gallery, in this order:

    '''<Title>.

    Claim: what the paper says, in our words.

    Here: what is trained, how large, and in what it differs from the paper.

    Verdict: the checks that the claim is cut into, with the smallest effect of each that matters.
    '''

and its body reads like this, with `run.pick` choosing settings by scale (`--quick`, none, `--full`):

    @figure(FORT_2019)
    def main(run: Run) -> None:
        runs = run.each(measure)  # one result a seed: computed once, by what it follows from
        ...
        finish(run, drawing, numbers, [Check("rises", [one["rise"] for one in runs], smallest=0.1)], settings)

    def measure(run: Run, seed: int) -> dict[str, Any]:
        n, epochs = run.pick(quick=(200, 2), gallery=(2000, 20), full=(8000, 100))
        data = load("mnist", run.data, train=n, test=1000, seed=seed)
        path = fit(run.out / "mlp.zarr", lambda: mlp([784, 100, 10]), data, epochs=epochs, seed=seed)
        results = analyze.run(path, ["stiffness"], output=path.with_suffix(".analysis"))
        return {"rise": float(...)}

    if __name__ == "__main__":
        main()

The rules by which checks become a verdict are in `verdicts.py`.
Figures are drawn with `canvas()` and `analyze.plot`. To put a result into the gallery, run the script and then
`python docs/gallery/make.py figures`: it copies `figures/<script>/numbers.json` and `figure.svg` (or `.png`) to
`docs/gallery/results/<script>.json`, `.svg` and writes every page and the table anew. Nothing is typed by hand.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click
import matplotlib
import numpy as np
import torch
from cache import Result, cached
from fitting import fit
from matplotlib.figure import Figure
from networks import alexnet, cnn, mlp, resnet18, vgg, vgg19
from PIL import Image
from training_data import NAMES, Data, load
from verdicts import EXPLORATORY, FINAL, FIRST, Check, Outcome, decide, verdict

from analyze import plot
from analyze.reference import Reference

__all__ = [
    "NAMES", "Check", "Data", "Result", "Run", "alexnet", "canvas", "cnn", "figure", "finish", "fit", "load", "mlp",
    "resnet18", "spread", "vgg", "vgg19"
]  # fmt: skip

T = TypeVar("T")
LARGEST_SVG = 150_000  # bytes; a larger drawing is kept as a PNG


@dataclass
class Run:
    """One call of a script: what its options say. `data` holds mnist.npz and cifar10.npz."""

    script: str
    about: str
    paper: tuple[Reference, ...]
    data: Path
    out: Path
    scale: str
    device: str
    seed: int
    n_seeds: int
    spent: dict[str, float] = field(default_factory=dict)  # processor seconds, by network and by result

    @property
    def quick(self) -> bool:
        """Whether the script is only to show that it runs."""
        return self.scale == "quick"

    def pick(self, *, quick: T, gallery: T, full: T) -> T:
        """The settings of this scale: a minute or two; as shown in the gallery; as in the paper."""
        return {"quick": quick, "gallery": gallery, "full": full}[self.scale]

    @property
    def seeds(self) -> range:
        """Seeds of this scale, all final or all exploratory ones."""
        return range(self.seed, self.seed + self.n_seeds)

    def each(self, measure: Callable[..., Result], *arguments: Any) -> list[Result]:
        """`measure(run, *arguments, seed)` of every seed, from `cache` beside `out` where it was computed before."""
        folder, results = self.out.parent / "cache", []
        for seed in self.seeds:
            click.echo(f"{self.script}: {measure.__name__}{arguments}, seed {seed}", err=True)
            settings = [list(arguments), seed, self.scale, self.device]
            result, seconds = cached(folder, settings, measure, self, *arguments, seed)
            self.spent |= seconds
            results.append(result)
        return results


def figure(*paper: Reference) -> Callable[[Callable[[Run], None]], click.Command]:
    """Make a command of a function of `Run`; its module's docstring is the help."""

    def decorate(main: Callable[[Run], None]) -> click.Command:
        module = sys.modules.get(main.__module__)
        about = main.__globals__["__doc__"] or (module.__doc__ if module else "") or ""
        script = Path(main.__globals__["__file__"]).stem

        @click.command(help=about.replace("\n\n", "\n\n\b\n"), context_settings={"show_default": True})
        @click.option("--data", type=click.Path(path_type=Path), envvar="TRACER_DATA", default=".",
                      help="Folder of mnist.npz and cifar10.npz; also TRACER_DATA.")  # fmt: skip
        @click.option("--out", type=click.Path(path_type=Path), default=Path("figures", script),
                      help="Folder for archives, analyses, figure and numbers.")  # fmt: skip
        @click.option("--quick", "scale", flag_value="quick", help="Tiny: does it run?")
        @click.option("--full", "scale", flag_value="full", help="The paper's size: a GPU, or hours.")
        @click.option("--device", default="cpu", help="Where to train, such as cuda.")
        @click.option("--seed", type=int, help="First seed of data, initialisation and order; "
                      f"default {FINAL.start}, --quick {EXPLORATORY.start}.")  # fmt: skip
        @click.option("--seeds", "n_seeds", type=click.IntRange(2), help="How many seeds; "
                      f"default {FIRST}, --quick 2, for a page of the gallery at most {len(FINAL)}.")  # fmt: skip
        def command(scale: str | None, seed: int | None, n_seeds: int | None, **options: Any) -> None:
            matplotlib.rcParams.update(plot.STYLE)
            options["out"].mkdir(parents=True, exist_ok=True)
            first = (EXPLORATORY if scale == "quick" else FINAL).start if seed is None else seed
            n_seeds = n_seeds or (2 if scale == "quick" else FIRST)
            main(Run(script, about, paper, scale=scale or "gallery", seed=first, n_seeds=n_seeds, **options))

        return command

    return decorate


def canvas(height: float = 2.4) -> Figure:
    """An empty figure in the house style, as wide as a page; `analyze.plot.panels` divides it."""
    return Figure(figsize=(plot.WIDTH, height), layout="constrained")


def spread(values: Sequence[float] | np.ndarray, digits: int = 2) -> str:
    """Mean and standard deviation over seeds, as a row of the table shows them; how many, where some are NaN.

    >>> spread([1.0, 2.0, 3.0]), spread([1.0, 2.0, float("nan")])
    ('2.00 ± 1.00', '1.50 ± 0.71 (2 of 3)')
    """
    defined = np.asarray(values, float)[~np.isnan(values)]
    if len(defined) < 2:
        return f"{defined[0]:.{digits}f}" if len(defined) else "undefined"
    share = "" if len(defined) == len(values) else f" ({len(defined)} of {len(values)})"
    return f"{defined.mean():.{digits}f} ± {defined.std(ddof=1):.{digits}f}{share}"


def finish(
    run: Run,
    drawing: Figure,
    numbers: Mapping[str, Any],
    checks: Sequence[Check],
    settings: Mapping[str, Any],
) -> None:
    """Write the figure and the numbers to `run.out`, and print them.

    `numbers`: label to number or text, a row each of the page's second table. `checks`: the parts of the claim, from
    which the verdict follows; the first is the one that the table of all figures shows.
    """
    stored = [
        {
            "part": check.part,
            "unit": check.unit,
            "smallest": check.smallest,
            "absent": check.absent,
            "values": [_number(value) if np.isfinite(value) else None for value in check.values],
        }
        for check in checks
    ]
    outcomes = decide([Check(**one) for one in stored])
    left = {
        "script": run.script,
        "about": run.about,
        "papers": [[str(paper), paper.link] for paper in run.paper],
        "scale": run.scale,
        "seeds": list(run.seeds),
        "device": run.device,
        "figure": _draw(run, drawing),
        "numbers": {label: _number(value) for label, value in numbers.items()},
        "checks": stored,
        "verdict": verdict(outcomes),
        "settings": {label: str(value) for label, value in settings.items()},
        "cpu_seconds": round(sum(run.spent.values())),
        "versions": {"python": platform.python_version(), "torch": torch.__version__.partition("+")[0]},
    }
    (run.out / "numbers.json").write_text(json.dumps(left, indent=1, ensure_ascii=False) + "\n")
    width = max(len(label) for label in [*numbers, "verdict"])
    for label, value in [*left["numbers"].items(), ("verdict", left["verdict"])]:
        click.echo(f"{label:<{width}}  {value}")
    for outcome in outcomes:
        click.echo(said(outcome))
    click.echo(f"figure: {run.out / left['figure']}; {left['cpu_seconds']} s of processor time", err=True)


def said(one: Outcome) -> str:
    """An outcome in a line of the terminal."""
    interval = f"{one.mean:.3g} ({one.low:.3g} to {one.high:.3g}) {one.check.unit}".rstrip()
    return f"{one.check.part}: {interval}; matters from {one.check.smallest:g}; power {one.power:.2f}; {one.answer}"


def _draw(run: Run, drawing: Figure) -> str:
    path = run.out / "figure.svg"
    plot.save_svg(drawing, path, description=run.about.partition("\n")[0])
    picture = path.with_suffix(".png")
    picture.unlink(missing_ok=True)
    if path.stat().st_size <= LARGEST_SVG:
        return path.name
    path.unlink()
    drawing.savefig(picture, dpi=160, metadata={"Software": None})
    # A palette is enough for a drawing, and a third of the bytes.
    Image.open(picture).convert("RGB").quantize(128).save(picture, optimize=True)
    return picture.name


def _number(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, str) or value is None:
        return value
    return float(f"{float(value):.4g}")
