"""What the scripts of this folder share: their options, training and recording, and what they leave behind.

A script is one figure of one paper. Its docstring is the text of its page in docs/gallery, in this order:

    '''<Title>.

    Claim: what the paper says, in our words.

    Here: what is trained, how large, and in what it differs from the paper.

    Verdict: the rule by which the verdict follows from the numbers.
    '''

and its body reads like this, with `run.pick` choosing settings by scale (`--quick`, none, `--full`):

    @figure(FORT_2019)
    def main(run: Run) -> None:
        n, epochs = run.pick(quick=(200, 2), gallery=(2000, 20), full=(8000, 100))
        data = load("mnist", run.data, train=n, test=1000, seed=run.seed)
        path = fit(run.out / "mlp.zarr", lambda: mlp([784, 100, 10]), data, epochs=epochs, seed=run.seed)
        results = analyze.run(path, ["stiffness"], output=path.with_suffix(".analysis"))
        ...
        finish(run, drawing, numbers, checks, settings)

    if __name__ == "__main__":
        main()

Figures are drawn with `canvas()` and `analyze.plot`. To put a result into the gallery, run the script and then
`python docs/gallery/make.py figures`: it copies `figures/<script>/numbers.json` and `figure.svg` (or `.png`) to
`docs/gallery/results/<script>.json`, `.svg` and writes every page and the table anew. Nothing is typed by hand.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click
import matplotlib
import numpy as np
import torch
from fitting import fit
from matplotlib.figure import Figure
from networks import alexnet, cnn, mlp, resnet18, vgg, vgg19
from PIL import Image
from training_data import NAMES, Data, load

from analyze import plot
from analyze.reference import Reference

__all__ = [
    "NAMES", "Data", "Run", "alexnet", "canvas", "cnn", "figure", "finish", "fit", "judge", "load", "mlp",
    "resnet18", "spread", "vgg", "vgg19"
]  # fmt: skip

T = TypeVar("T")
VERDICTS = ("holds", "partly", "does not hold", "cannot be told")
LARGEST_SVG = 150_000  # bytes; a larger drawing is kept as a PNG
Checks = Mapping[str, bool | None]


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
    began: float = field(default_factory=time.process_time)

    @property
    def quick(self) -> bool:
        """Whether the script is only to show that it runs."""
        return self.scale == "quick"

    def pick(self, *, quick: T, gallery: T, full: T) -> T:
        """The settings of this scale: a minute or two; as shown in the gallery; as in the paper."""
        return {"quick": quick, "gallery": gallery, "full": full}[self.scale]


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
        @click.option("--seed", default=0, help="Seed of data, initialisation and order.")
        def command(scale: str | None, **options: Any) -> None:
            matplotlib.rcParams.update(plot.STYLE)
            options["out"].mkdir(parents=True, exist_ok=True)
            main(Run(script, about, paper, scale=scale or "gallery", **options))

        return command

    return decorate


def canvas(height: float = 2.4) -> Figure:
    """An empty figure in the house style, as wide as a page; `analyze.plot.panels` divides it."""
    return Figure(figsize=(plot.WIDTH, height), layout="constrained")


def judge(checks: Checks) -> str:
    """The verdict that follows from the parts of a claim; None: could not be decided.

    >>> judge({"a": True, "b": None}), judge({"a": False}), judge({"a": None})
    ('partly', 'does not hold', 'cannot be told')
    """
    decided = [value for value in checks.values() if value is not None]
    if not decided:
        return "cannot be told"
    if all(decided):
        return "holds" if len(decided) == len(checks) else "partly"
    return "partly" if any(decided) else "does not hold"


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
    verdict: str | Checks,
    settings: Mapping[str, Any],
) -> None:
    """Write the figure and the numbers to `run.out`, and print them.

    `numbers`: label to number or text, a row each of the page's table; the first is the one that the table
    of all figures shows. `verdict`: one of `VERDICTS`, or the
    parts of the claim, each a sentence and whether it came out so, which `judge` sums up.
    """
    checks = {} if isinstance(verdict, str) else {part: _number(value) for part, value in verdict.items()}
    verdict = verdict if isinstance(verdict, str) else judge(checks)
    if verdict not in VERDICTS:
        raise ValueError(f"verdict is {verdict!r}, expected one of {', '.join(VERDICTS)}")
    name, seconds = _draw(run, drawing), round(time.process_time() - run.began)
    found = {
        "script": run.script,
        "about": run.about,
        "papers": [[str(paper), paper.link] for paper in run.paper],
        "scale": run.scale,
        "seed": run.seed,
        "device": run.device,
        "figure": name,
        "numbers": {label: _number(value) for label, value in numbers.items()},
        "checks": checks,
        "verdict": verdict,
        "settings": {label: str(value) for label, value in settings.items()},
        "cpu_seconds": seconds,
        "versions": {"python": platform.python_version(), "torch": torch.__version__.partition("+")[0]},
    }
    kept = run.out / "numbers.json"
    before = json.loads(kept.read_text()) if kept.is_file() else {}
    if all(before.get(part) == found[part] for part in ("scale", "seed", "settings")):
        # Archives that were used again cost nothing now, but they did.
        found["cpu_seconds"] = max(seconds, before["cpu_seconds"])
    kept.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    width = max(len(label) for label in [*numbers, *checks, "verdict"])
    for label, value in [*found["numbers"].items(), *checks.items(), ("verdict", verdict)]:
        click.echo(f"{label:<{width}}  {value}")
    click.echo(f"figure: {run.out / name}", err=True)


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
