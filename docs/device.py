"""Take what `python -m benchmarks.device` left into the pages: `python docs/device.py RESULTS`.

Writes the section of docs/performance.md between its two markers, with card, driver and versions, and hands finished
figures to the gallery (`docs/gallery/make.py` then writes its pages). Nothing is typed by hand.
"""

import base64
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE / "performance.md"
BEGIN, END = "<!-- device: begin -->", "<!-- device: end -->"
PARTS = ("tests", "neutrality", "overhead", "snapshots", "replay", "gallery")
Found = dict[str, Any]


def read(folder: Path) -> dict[str, Found]:
    """The parts there are, in their order."""
    files = {part: folder / f"{part}.json" for part in PARTS}
    parts = {
        part: json.loads(file.read_text(encoding="utf-8")) for part, file in files.items() if file.is_file()
    }
    if not any("machine" in part for part in parts.values()):
        raise SystemExit(f"{folder} holds no results: run python -m benchmarks.device --out {folder}")
    return parts


def section(parts: dict[str, Found]) -> str:
    """Markdown of everything but the figures."""
    lines = [BEGIN, "", *_machines(parts), "", "| part | came to its end | seconds |", "|---|---|---|"]
    for name, part in parts.items():
        lines.append(f"| {name} | {part['state']} | {part['seconds']:.0f} |")
    for name, part in parts.items():
        found = part["results"]
        lines += ["", *WRITERS[name](found)] if name in WRITERS and found else []
        errors = [f"- {name}: {one['where']}: {_line(one['error'])}" for one in found.get("errors", [])]
        lines += ["", *errors] if errors else []
    return "\n".join([*lines, "", END])


def put(text: str, section: str) -> str:
    """A page with the section in its place.

    >>> put(f"a {BEGIN} old {END} b", "new")
    'a new b'
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page has no markers {BEGIN} and {END}")
    return before + section + after


def figures(parts: dict[str, Found], folder: Path) -> list[str]:
    """Write finished figures as their scripts would have; their names."""
    names = []
    about = parts.get("gallery", {}).get("machine")
    hardware = {} if about is None else {"hardware": f"one {_card(about)} with {about['cores']} cores"}
    for one in parts.get("gallery", {"results": {}})["results"].get("scripts", []):
        if one["state"] != "done":
            continue
        out = folder / one["script"]
        out.mkdir()
        (out / "numbers.json").write_text(
            json.dumps(one["numbers"] | hardware, indent=1, ensure_ascii=False) + "\n", "utf-8"
        )
        drawing = out / one["numbers"]["figure"]
        plain = drawing.suffix == ".svg"
        drawing.write_bytes(one["drawing"].encode() if plain else base64.b64decode(one["drawing"]))
        names.append(one["script"])
    return names


def _machines(parts: dict[str, Found]) -> list[str]:
    told = []
    for part in parts.values():
        about = part.get("machine")
        if about is None:
            continue
        versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
        where = f"one {_card(about)} with {about['cores']} cores"
        told.append(f"Measured {about['date']} on {where}; Python {about['python']}, {versions}.")
    return list(dict.fromkeys(told))


def _card(about: Found) -> str:
    driven = f", driver {about['driver']}, CUDA {about['cuda']}" if about["cuda"] else ""
    return f"{about['card']}{driven}"


def _tests(found: Found) -> list[str]:
    counts = ", ".join(f"{found.get(name, 0)} {name}" for name in ("passed", "failed", "skipped"))
    failed = [f"- `{one['test']}`" for one in found.get("tests", []) if one["outcome"] == "failed"]
    return [f"Tests: {counts}.", *(["", *failed] if failed else [])]


def _overhead(found: Found) -> list[str]:
    lines = ["| training, a snapshot every so many updates | wall | goal | kernels | waits between snapshots |",
             "|---|---|---|---|---|"]  # fmt: skip
    for one in found.get("compared", []):
        ratios = [
            ours / theirs for ours, theirs in zip(one["recorded_seconds"], one["bare_seconds"], strict=True)
        ]
        kernels = "" if one["kernel_ratio"] is None else f"{one['kernel_ratio']:.3f}"
        waits = sum(one["recorded_between"]["waits"].values()) - sum(one["bare_between"]["waits"].values())
        lines.append(
            f"| {one['workload']}, batch {one['batch']}, every {one['updates']} | {one['ratio']:.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f}) | {one['goal']} | {kernels} | {waits} |"
        )
    lines += [
        "",
        "| archive | training unchanged | replay on the device | replay on the CPU |",
        "|---|---|---|---|",
    ]
    for one in found.get("right", []):
        here = "bit for bit" if one["bit_for_bit"] else "differs"
        there = max(one["cpu"]["rounding"].values(), default=0.0)
        elsewhere = f"within 1e-5 (at most {there:.1g})" if one["cpu"]["ok"] else "differs by more than 1e-5"
        lines.append(f"| {one['workload']} | {'yes' if one['unchanged'] else 'no'} | {here} | {elsewhere} |")
    return lines


def _snapshots(found: Found) -> list[str]:
    return [
        f"Snapshots with an update of every weight right after each: {found.get('right', 0)} of "
        f"{found.get('snapshots', 0)} hold the true weights."
    ]


def _replay(found: Found) -> list[str]:
    lines = [
        "| metric | device, s | CPU, s | largest difference, of the largest value |",
        "|---|---|---|---|",
    ]
    for one in found.get("metrics", []):
        gap = max(one["differences"].values(), default=0.0)
        lines.append(
            f"| {one['metric']} | {one['device_seconds']:.2f} | {one['cpu_seconds']:.2f} | {gap:.1e} |"
        )
    return lines


WRITERS: dict[str, Callable[[Found], list[str]]] = {
    "tests": _tests,
    "neutrality": _tests,
    "overhead": _overhead,
    "snapshots": _snapshots,
    "replay": _replay,
}


def _line(text: str) -> str:
    return text.partition("\n")[0][:200]


def main(folder: Path, page: Path = PAGE) -> None:
    """Write the section and take the figures over."""
    parts = read(folder)
    page.write_text(put(page.read_text(encoding="utf-8"), section(parts)), encoding="utf-8")
    make = runpy.run_path(str(HERE / "gallery" / "make.py"))
    with TemporaryDirectory() as made:
        names = figures(parts, Path(made))
        if names:
            make["take"](Path(made))
    for name, words in make["pages"]().items():
        (HERE / "gallery" / name).write_text(words, encoding="utf-8")
    print(f"{page.name} written; figures taken over: {', '.join(names) or 'none'}", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
