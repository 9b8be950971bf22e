"""Write the gallery from results: `python docs/gallery/make.py [FIGURES]`. A test compares the pages.

A script of examples/figures leaves `numbers.json` and a drawing in `figures/<script>`. With the folder that holds
these, results made at gallery scale from the final seeds are first taken over into `results/`. Then every page and the
table follow: claim, setting and checks are the script's docstring and what it measured at each seed, verdicts follow
from these by `examples/figures/verdicts.py`, and `changes.json` says what the last edition had and why it differs.
"""

import ast
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCRIPTS = HERE.parents[1] / "examples" / "figures"
sys.path.insert(0, str(SCRIPTS))

from verdicts import EXPLORATORY, FINAL, FIRST, Check, Outcome, decide, verdict  # noqa: E402

RESULTS = HERE / "results"
CHANGES = HERE / "changes.json"
ORDER = ("walker", "fort", "neyshabur", "gain", "imagefunction")
PARTS = {"Claim": "Claim", "Here": "What we did", "Verdict": "Checks"}
INTRODUCTION = f"""# Gallery: the literature, recorded and recomputed

Each figure is one script in `examples/figures`: it records networks with `tracer.record`, computes every number with
`analyze.run` from the archives, and cuts the claim into checks. Claims are in our words. The networks are far smaller
than the papers': what is shown is that the measurement can be made, and what it gives at this size. A claim that is
contradicted here may hold at the size it was made for.

## Rules

One module, [verdicts.py](../../examples/figures/verdicts.py), decides every check in the same way; its rules were fixed
before the runs that they are applied to.

- Every check has an effect, measured once a seed (0: nothing happens), and the smallest effect that would matter.
  **Supported**: the mean effect is larger than that; **contradicted**: it is smaller (two-sided t test; all checks of a
  page corrected together by Holm's method, so that the chance of any wrong answer on a page is at most 5 %).
- **Cannot be told**: neither, or the power is below 0.8. Power is the chance that the check would be contradicted if
  nothing happened, at the spread that was seen. A p-value is never less than that of so many seeds on one side: three
  seeds decide nothing.
- A check that something does *not* happen passes when nothing happens at all. It can contradict a claim and is never
  counted as support.
- Settings and smallest effects were chosen on seeds {EXPLORATORY.start} to {EXPLORATORY.stop - 1}. Verdicts come from
  seeds {FINAL.start} to {FINAL.stop - 1}, which draw other images, initial weights and orders; where a page uses every
  image there is, initial weights and orders alone: it speaks of these images.
- Nineteen pages were run again with all images of MNIST or CIFAR-10 at hand, or four to ten times as many as before,
  after they had been seen at smaller sizes; what was measured and which effects matter stayed as they were. One was
  given another learning rate and batch size for it, and one wider networks; both say why.
- Each page is first run at ten final seeds. By their spread, whatever their means, some checks have the power to be
  told only at more: a page with one that needs at most thirty is run at thirty, where its ten took no more than a
  quarter of an hour, and these decide all its checks. Until then it says how many would do. This rule was written when
  most pages had been seen at ten seeds, which are among the thirty; effects that matter were not touched.

A page supports its claim where every check that counts does, and partly where some do. The table shows the first
check of each page; its interval is at the level the check was decided at.

Where verdicts differ from those of the last edition, the page says why. That edition called a check true beyond two
standard errors of three or five seeds, without correction for its 117 checks.

This page and those it links are written by `docs/gallery/make.py` from what the scripts left; a page's cost is the
processor time of all runs it rests on, some of which it shares with other pages.

"""


def take(figures: Path) -> None:
    """Copy numbers and drawings of finished scripts into `results/`, quick and exploratory ones left out."""
    for numbers in sorted(figures.glob("*/numbers.json")):
        result = json.loads(numbers.read_text(encoding="utf-8"))
        seeds = set(result.get("seeds", []))
        if result["scale"] == "quick" or not seeds or not seeds <= set(FINAL):
            continue
        for old in RESULTS.glob(f"{result['script']}.*"):
            old.unlink()
        RESULTS.mkdir(exist_ok=True)
        shutil.copyfile(numbers, RESULTS / f"{result['script']}.json")
        drawing = numbers.parent / result["figure"]
        shutil.copyfile(drawing, RESULTS / f"{result['script']}{drawing.suffix}")


def results() -> list[dict[str, Any]]:
    """What each script left, papers in order of `ORDER`, figures of one in order of their names."""
    every = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")]
    return sorted(every, key=lambda one: (ORDER.index(one["script"].partition("_")[0]), one["script"]))


def rerun(result: dict[str, Any]) -> bool:
    """Whether a result has its effects by seed, which the rules need."""
    return isinstance(result["checks"], list)


def outcomes(result: dict[str, Any]) -> list[Outcome]:
    """The answers to a page's checks."""
    return decide([Check(**one) for one in result["checks"]]) if rerun(result) else []


def text(result: dict[str, Any]) -> dict[str, str]:
    r"""Title and the parts of a script's docstring, each as one line.

    >>> text({"about": "A title.\n\nClaim: one\ntwo.\n\nMore.\n\nHere: three.\n"})
    {'Title': 'A title', 'Claim': 'one two. More.', 'Here': 'three.'}
    """
    first, *rest = [" ".join(block.split()) for block in result["about"].strip().split("\n\n")]
    parts, name = {"Title": first.rstrip(".")}, ""
    for block in rest:
        head, colon, tail = block.partition(": ")
        if colon and head in PARTS:
            name, parts[head] = head, tail[:1] + tail[1:]
        elif name:
            parts[name] += f" {block}"
    return parts


def page(result: dict[str, Any]) -> str:
    """The page of one figure."""
    parts, script = text(result), result["script"]
    drawing = Path(result["figure"]).suffix
    lines = [f"# {parts['Title']}", "", f"**{_said(result)}.**", ""]
    lines += [f"![{_cell(parts['Title'])}](results/{script}{drawing})", ""]
    for name, heading in PARTS.items():
        if name != "Verdict" or rerun(result):
            lines += [f"**{heading}.** {_sentence(parts.get(name, ''))}", ""]
    lines += _decided(outcomes(result))
    change = _change(result)
    lines += [f"**Since the last edition.** {change}", ""] if change else []
    lines += ["| number | value |", "|---|---|"]
    lines += [f"| {_cell(name)} | {_cell(_show(value))} |" for name, value in result["numbers"].items()]
    lines += [
        "",
        "A value with ± is a mean and a standard deviation over seeds.",
        "",
        "| setting | |",
        "|---|---|",
    ]
    lines += [f"| {_cell(name)} | {_cell(_show(value))} |" for name, value in _settings(result).items()]
    lines += ["", "```sh", _command(result), "```", ""]
    lines.append(
        "Papers: " + "; ".join(f"[{name}]({link})" if link else name for name, link in result["papers"]) + "."
    )
    lines += ["", f"[Script](../../examples/figures/{script}.py) · [All figures](README.md)"]
    return "\n".join(lines) + "\n"


def table() -> str:
    """The first page: every figure, the first sentence of its claim, its verdict and its first check."""
    every = results()
    lines = [
        INTRODUCTION
        + "| figure | claim | verdict | first check: effect (interval); smallest that matters | seeds | power "
        "| checks | last edition | cost |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in every:
        parts, found = text(result), outcomes(result)
        claim = re.split(r"(?<! al)(?<=[\w)])[.;:] ", parts.get("Claim", ""))[0].rstrip(".")
        cells = [
            f"[{parts['Title']}]({result['script']}.md)",
            _sentence(claim) + ".",
            verdict(found) if found else "not yet rerun under these rules",
            f"{found[0].check.part}: {_effect(found[0])}; {found[0].check.smallest:g}" if found else "",
            str(found[0].n) if found else "",
            f"{found[0].power:.2f}" if found else "",
            _share(found),
            _changes().get(result["script"], {}).get("last", "new") if found else "",
            f"{result['cpu_seconds']} s",
        ]
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    waiting = [f"- [{title}](../../examples/figures/{name}.py)" for name, title in unrun().items()]
    lines += ["", "Checks are declared, runs still to be made:", "", *waiting] if waiting else []
    return "\n".join(lines) + "\n"


def unrun() -> dict[str, str]:
    """Titles of scripts without a result, by name."""
    made, titles = {result["script"] for result in results()}, {}
    for path in sorted(SCRIPTS.glob("*.py")):
        code = path.read_text(encoding="utf-8")
        if "\n@figure(" in code and path.stem not in made:
            titles[path.stem] = text({"about": ast.get_docstring(ast.parse(code))})["Title"]
    return titles


def _decided(found: list[Outcome]) -> list[str]:
    if not found:
        return []
    lines = [
        "| check | effect (interval) | smallest that matters | seeds | power | answer |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        answer = one.answer + (f" ({one.needed} seeds would do)" if _few(one) else "")
        part = one.check.part + (" (passes if nothing happens)" if one.check.absent else "")
        unit = f" {one.check.unit}" if one.check.unit else ""
        cells = [part, _effect(one), f"{one.check.smallest:g}{unit}", str(one.n), f"{one.power:.2f}", answer]
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return [*lines, ""]


def _few(one: Outcome) -> bool:
    return one.answer == "cannot be told" and one.n < one.needed < 1000


def _effect(one: Outcome) -> str:
    if one.mean != one.mean:
        return "at no seed defined"
    interval = f"{one.low:.3g} to {one.high:.3g}" if one.low == one.low else "no interval"
    return f"{one.mean:.3g} ({interval}) {one.check.unit}".rstrip()


def _said(result: dict[str, Any]) -> str:
    return f"Verdict: {verdict(outcomes(result))}" if rerun(result) else "Not yet rerun under these rules"


def _changes() -> dict[str, dict[str, str]]:
    changes: dict[str, dict[str, str]] = json.loads(CHANGES.read_text(encoding="utf-8"))
    return changes


def _change(result: dict[str, Any]) -> str:
    change = _changes().get(result["script"])
    if change is None or not rerun(result):
        return ""
    last = f"There the verdict was “{change['last']}”." if "last" in change else "It had no such page."
    return f"{last} {change['why']}".rstrip()


def _share(found: list[Outcome]) -> str:
    answers = [one.answer for one in found]
    return ", ".join(f"{answers.count(word)} {word}" for word in dict.fromkeys(sorted(answers)))


def pages() -> dict[str, str]:
    """Every page by its name."""
    return {"README.md": table(), **{f"{result['script']}.md": page(result) for result in results()}}


def _settings(result: dict[str, Any]) -> dict[str, Any]:
    where = result.get("hardware", "two CPU cores" if result["device"] == "cpu" else result["device"])
    seeds = result.get("seeds")
    made = {"seeds": f"{seeds[0]} to {seeds[-1]}"} if seeds else {}
    made |= {"scale": result["scale"], "hardware": where}
    made["processor time"] = f"{result['cpu_seconds']} s"
    return {
        **result["settings"],
        **made,
        "versions": ", ".join(f"{k} {v}" for k, v in result["versions"].items()),
    }


def _command(result: dict[str, Any]) -> str:
    full = " --full" if result["scale"] == "full" else ""
    seeds = f" --seeds {len(result['seeds'])}" if len(result.get("seeds", [])) > FIRST else ""
    return f"python examples/figures/{result['script']}.py --data FOLDER{full}{seeds}"


def _show(value: Any) -> str:
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
