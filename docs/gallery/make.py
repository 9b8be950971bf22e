"""Write the gallery from results: `python docs/gallery/make.py [FIGURES]`. A test compares the pages.

A script of examples/figures leaves `numbers.json` and a drawing in `figures/<script>`. With the folder that holds
these, results made at gallery scale are first taken over into `results/`. Then every page and the table follow from
`results/` alone: claim, setting and rule are the script's docstring, the rest is what it computed.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ORDER = ("walker", "fort", "neyshabur", "gain", "imagefunction")
PARTS = {"Claim": "Claim", "Here": "What we did", "Verdict": "Rule for the verdict"}
ANSWER = {True: "yes", False: "no", None: "undecided"}
INTRODUCTION = """# Gallery: the literature, recorded and recomputed

Each figure is one script in `examples/figures`: it records networks with `tracer.record`, computes every number with
`analyze.run` from the archives, and decides by a rule written down in it whether the claim came out. Claims are in our
words. The networks are far smaller than the papers': what is shown is that the measurement can be made, and what it
gives at this size. A claim that does not hold here may hold at the size it was made for.

Each was made on the hardware and at the scale that its page names; `--full` is nearer to the papers, `--quick` only
shows that a script runs. This page and those it links are written by
`docs/gallery/make.py` from what the scripts left.

Exploratory runs came first. Thresholds of Walker 1, the networks and learning rates of Fort's figures and the wording
of the claims of Walker 4 and 5 were chosen after such runs, partly on the same seeds. Rules changed after results were
seen: one check of Walker 2 dropped (its verdict stayed); Gain's figure of CNA over training by Pearson's correlation
in place of a rank ("does not hold" became "partly"); signs that count in his gap correlations and in Gupta's Figure 7
(both stricter). The learning rate of the CIFAR-10 MLPs in Gain's study was lowered, since they had not learned.
"""


def take(figures: Path) -> None:
    """Copy numbers and drawings of finished scripts into `results/`, quick ones left out."""
    for numbers in sorted(figures.glob("*/numbers.json")):
        found = json.loads(numbers.read_text(encoding="utf-8"))
        if found["scale"] == "quick":
            continue
        for old in RESULTS.glob(f"{found['script']}.*"):
            old.unlink()
        RESULTS.mkdir(exist_ok=True)
        shutil.copyfile(numbers, RESULTS / f"{found['script']}.json")
        drawing = numbers.parent / found["figure"]
        shutil.copyfile(drawing, RESULTS / f"{found['script']}{drawing.suffix}")


def results() -> list[dict[str, Any]]:
    """What each script left, papers in order of `ORDER`, figures of one in order of their names."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")]
    return sorted(found, key=lambda one: (ORDER.index(one["script"].partition("_")[0]), one["script"]))


def text(found: dict[str, Any]) -> dict[str, str]:
    r"""Title and the parts of a script's docstring, each as one line.

    >>> text({"about": "A title.\n\nClaim: one\ntwo.\n\nMore.\n\nHere: three.\n"})
    {'Title': 'A title', 'Claim': 'one two. More.', 'Here': 'three.'}
    """
    first, *rest = [" ".join(block.split()) for block in found["about"].strip().split("\n\n")]
    parts, name = {"Title": first.rstrip(".")}, ""
    for block in rest:
        head, colon, tail = block.partition(": ")
        if colon and head in PARTS:
            name, parts[head] = head, tail[:1] + tail[1:]
        elif name:
            parts[name] += f" {block}"
    return parts


def page(found: dict[str, Any]) -> str:
    """The page of one figure."""
    parts, script = text(found), found["script"]
    drawing = Path(found["figure"]).suffix
    lines = [f"# {parts['Title']}", "", f"**Verdict: {found['verdict']}.**", ""]
    lines += [f"![{_cell(parts['Title'])}](results/{script}{drawing})", ""]
    for name, heading in PARTS.items():
        lines += [f"**{heading}.** {_sentence(parts.get(name, ''))}", ""]
    if found["checks"]:
        lines += ["| part of the claim | came out |", "|---|---|"]
        lines += [f"| {_cell(name)} | {ANSWER[value]} |" for name, value in found["checks"].items()]
        lines.append("")
    lines += ["| number | value |", "|---|---|"]
    lines += [f"| {_cell(name)} | {_cell(_show(value))} |" for name, value in found["numbers"].items()]
    lines += [
        "",
        "A value with ± is a mean and a standard deviation over seeds.",
        "",
        "| setting | |",
        "|---|---|",
    ]
    lines += [f"| {_cell(name)} | {_cell(_show(value))} |" for name, value in _settings(found).items()]
    lines += ["", "```sh", _command(found), "```", ""]
    lines.append(
        "Papers: " + "; ".join(f"[{name}]({link})" if link else name for name, link in found["papers"]) + "."
    )
    lines += ["", f"[Script](../../examples/figures/{script}.py) · [All figures](README.md)"]
    return "\n".join(lines) + "\n"


def table() -> str:
    """The first page: every figure, the first sentence of its claim, its first number, and the verdict."""
    lines = [
        INTRODUCTION,
        "| figure | claim | our number | verdict | parts that came out |",
        "|---|---|---|---|---|",
    ]
    for found in results():
        parts = text(found)
        claim = re.split(r"(?<! al)(?<=[\w)])[.;:] ", parts.get("Claim", ""))[0].rstrip(".")
        name, value = next(iter(found["numbers"].items()))
        title = f"[{_cell(parts['Title'])}]({found['script']}.md)"
        cells = [_sentence(claim) + ".", f"{name}: {_show(value)}", found["verdict"], _share(found["checks"])]
        lines.append(f"| {' | '.join([title, *map(_cell, cells)])} |")
    return "\n".join(lines) + "\n"


def _share(checks: dict[str, bool | None]) -> str:
    decided = [value for value in checks.values() if value is not None]
    undecided = len(checks) - len(decided)
    return f"{sum(decided)} of {len(checks)}" + (f" ({undecided} undecided)" if undecided else "")


def pages() -> dict[str, str]:
    """Every page by its name."""
    return {"README.md": table(), **{f"{found['script']}.md": page(found) for found in results()}}


def _settings(found: dict[str, Any]) -> dict[str, Any]:
    where = found.get("hardware", "two CPU cores" if found["device"] == "cpu" else found["device"])
    made = {"scale": found["scale"], "first seed": found["seed"], "hardware": where}
    made["processor time"] = f"{found['cpu_seconds']} s, archives already there not counted"
    return {
        **found["settings"],
        **made,
        "versions": ", ".join(f"{k} {v}" for k, v in found["versions"].items()),
    }


def _command(found: dict[str, Any]) -> str:
    full = " --full" if found["scale"] == "full" else ""
    return f"python examples/figures/{found['script']}.py --data FOLDER{full} --seed {found['seed']}"


def _show(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return ANSWER[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(words: str) -> str:
    return words.replace("|", "\\|")


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        take(Path(folder))
    for name, words in pages().items():
        (HERE / name).write_text(words, encoding="utf-8")
