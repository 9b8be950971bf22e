"""The head of a report: what was trained, its curves, and what was recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from analyze import plot
from analyze.findings.evidence import ends, number, percent, select
from analyze.findings.generalization import unseen
from analyze.report import svg
from analyze.report.entries import grid, text
from tracer.archive.summary import duration, summarize
from tracer.errors import byte_size, how_many

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tracer.archive import Archive


def run_section(archive: Archive, results: Mapping[str, xr.Dataset]) -> dict[str, Any]:
    """Everything the page says about the run itself, as the template expects it."""
    summary = summarize(archive)
    trained, recorded = summary["trained"], summary["recorded"]
    curves, caption = _curves(archive)
    return {
        "title": summary["title"],
        "lede": _lede(summary),
        "warning": _warning(summary),
        "tiles": _tiles(trained, recorded, results),
        "about_trained": f"{'Loss of every update, s' if curves else 'S'}ettings, and the shapes of "
        f"{how_many(len(summary['layers']), 'layer')}.",
        "about_recorded": f"{how_many(len(summary['streams']), 'stream')} of "
        f"{how_many(len(summary['probes']), 'probe')} at {how_many(recorded['snapshots'], 'snapshot')}.",
        "trained": _facts(trained),
        "curves": curves,
        "curves_caption": caption,
        "layers": _table("Layers", summary["layers"], numeric=("parameters",)),
        "recorded": _facts({**recorded, "state": summary["state"]}),
        "streams": _table(
            "Streams", summary["streams"], numeric=("examples", "snapshots", "first", "last", "bytes")
        ),
        "probes": _table("Probes", summary["probes"], numeric=("examples", "classes")),
        "provenance": _facts(summary["provenance"]),
    }


def draw_curves(archive: Archive, figure: Figure) -> None:
    """Training loss of every update, over steps."""
    rows = archive.rows
    (axes,) = plot.panels(figure, 1, height=2.5)
    axes.plot(rows["step"], rows["loss"], color=plot.GREY, linewidth=0.6, label="of a minibatch")
    axes.plot(*_smooth(rows["step"], rows["loss"]), color=plot.PALETTE[6], label="running mean")
    axes.set_ylabel("loss")
    plot.step_axis(axes, rows["step"])
    plot.legend(axes)


def _curves(archive: Archive) -> tuple[Any, str]:
    from markupsafe import Markup

    if not np.isfinite(archive.rows["loss"]).any():
        return None, ""

    def curves(_: Any, figure: Figure) -> None:
        draw_curves(archive, figure)

    label, scale = "Training loss of each update", {"time_axis": plot.time_scale(archive.snapshots)}
    return Markup(
        svg.fragment(lambda: plot.draw(curves, xr.Dataset(attrs=scale)), "curves", label)
    ), label + "."


def _smooth(steps: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Running mean over a fiftieth of the run, of defined losses only, each at the middle of what it is the mean of."""
    known = np.isfinite(losses)
    steps, losses = steps[known], losses[known]
    width = max(1, len(losses) // 50)
    mean = np.convolve(losses, np.ones(width) / width, mode="valid")
    return steps[(width - 1) // 2 :][: len(mean)], mean


def _lede(summary: dict[str, Any]) -> str:
    trained = summary["trained"]
    model = str(trained["model"] or "a network").rpartition(".")[2]
    parts = [
        f"{model} with {how_many(trained['parameters'], 'parameter')}" if trained["parameters"] else model
    ]
    parts.append(f"trained for {how_many(trained['updates'], 'update')}")
    if trained["optimizer"]:
        parts[-1] += f" of {str(trained['optimizer']).rpartition('.')[2]}"
    examples = [how_many(probe["examples"], f"{probe['probe']} example") for probe in summary["probes"]]
    if examples:
        parts.append(f"watched through {' and '.join(examples)}")
    return ", ".join(parts) + "."


def _warning(summary: dict[str, Any]) -> str:
    last = summary["recorded"]["last_step"]
    if summary["state"] == "complete":
        return ""
    return f"This recording is not complete ({summary['state']}): everything below ends at step {last}."


def _tiles(
    trained: dict[str, Any], recorded: dict[str, Any], results: Mapping[str, xr.Dataset]
) -> list[dict[str, str]]:
    epochs = how_many(trained["epochs"], "epoch") if trained["epochs"] else ""
    tiles = [{"name": "updates", "value": f"{trained['updates']:,}", "note": epochs}]
    against = unseen(results)
    for probe in dict.fromkeys(("train", "test", against)):
        series = select(results, "generalization", "error", probe=probe)
        last = None if series is None else ends(series)
        if last is not None:
            tiles.append(
                {"name": f"{probe} error", "value": percent(last.last), "note": f"step {last.last_step:,}"}
            )
    gap = select(results, "generalization", "gap_error")
    last = None if gap is None or gap.dims != ("step",) else ends(gap)
    if last is not None:
        note = f"percentage points, {against} − train"
        tiles.append({"name": "gap", "value": number(100 * last.last, 1), "note": note})
    note = f"{byte_size(recorded['bytes'])} on disk" if recorded["bytes"] else ""
    tiles.append({"name": "snapshots", "value": f"{recorded['snapshots']:,}", "note": note})
    return tiles


def _facts(items: dict[str, Any]) -> list[tuple[str, str]]:
    words = {"seconds": "duration", "bytes": "size"}
    return [
        (words.get(name, name.replace("_", " ")), _value(name, value))
        for name, value in items.items()
        if value is not None
    ]


def _table(caption: str, rows: list[dict[str, Any]], numeric: tuple[str, ...]) -> dict[str, Any]:
    head = list(rows[0]) if rows else []
    cells = [["–" if v is None else _value(name, v) for name, v in row.items()] for row in rows]
    columns = [i for i, name in enumerate(head) if name in numeric]
    return grid(head, cells, numeric=columns, caption=caption, shown=True)


def _value(name: str, value: Any) -> str:
    if name in ("bytes", "memory"):
        return byte_size(value)
    if name == "seconds":
        return duration(value)
    if isinstance(value, list):
        return ", ".join(_value("", item) for item in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else text(value)
