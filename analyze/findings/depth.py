"""What complex inputs do to the network, and whether the ways examples take through it have settled."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from analyze.findings.evidence import (
    Datasets,
    Finding,
    ends,
    number,
    number_at,
    percent,
    select,
    told,
    whom,
)
from analyze.findings.intervals import correlation, difference_of_shares, sample, share
from analyze.tables import example_probe
from tracer.errors import how_many


def complexity(results: Datasets, said: Mapping[str, Finding]) -> Finding | None:
    """Whether the most complex test inputs are wrong more often than the simplest."""
    series = select(results, "error_by_complexity", "error")
    if (
        series is None
        or series.sizes.get("group", 0) < 2
        or "n_examples" not in results["error_by_complexity"]
    ):
        return None
    final = series.isel(step=-1)
    sizes = results["error_by_complexity"]["n_examples"].values
    easy, hard = (share(float(final.isel(group=k)), int(sizes[k])) for k in (0, -1))
    if easy is None or hard is None:
        return None
    apart = difference_of_shares(easy, hard)
    if not apart.excludes(0):
        return None
    worse = "more" if apart.above(0) else "less"
    text = (
        f"Complex inputs are wrong {worse} often: of the {int(sizes[-1]):,} most complex test examples "
        f"{percent(hard.value)}, of the {int(sizes[0]):,} simplest {percent(easy.value)}, a difference of "
        f"{told(apart, 1, 100, ' percentage points')}."
    )
    n = int(sizes[0] + sizes[-1])
    about = f"the least and the most complex, {n:,} of {int(sizes.sum()):,} test examples"
    return Finding(
        "error_by_complexity", "error_by_complexity", text, "difference",
        {"least": easy, "most": hard, "difference": apart}, n, about,
    )  # fmt: skip


def cna(results: Datasets, said: Mapping[str, Finding]) -> Finding | None:
    """Whether the sums of a complex input grow more with depth than those of a simple one."""
    found = {}
    for probe in ("train", "test"):
        series = select(results, "cna", "pearson", probe=probe)
        last = None if series is None or series.dims != ("step",) else ends(series)
        if last is not None:
            n = int(np.nan_to_num(number_at(results, "cna", "n_examples", last.last_step, probe=probe)))
            one = correlation(last.last, n)
            if one is not None:
                found[probe] = one, n
    probe, (one, n) = next(iter(found.items()), ("", (None, 0)))
    if one is None or not one.excludes(0):
        return None
    text = (
        f"The more complex an input is, the {'more' if one.above(0) else 'less'} its layer sums grow with depth: "
        f"correlation (CNA) {told(one)} over {whom(results, probe, n)}"
    )
    other = found.get("test") if probe == "train" else None
    if other is not None:
        so = "; also" if other[0].excludes(0) and other[0].above(0) == one.above(0) else "; otherwise"
        so = so if other[0].excludes(0) else "; not to be told"
        text += f"{so} on test examples, {told(other[0])}"
    intervals = {name: span_of for name, (span_of, _) in found.items()}
    return Finding("cna", "cna", text + ".", "difference", intervals, n, whom(results, probe, n))


def paths(results: Datasets, said: Mapping[str, Finding]) -> Finding | None:
    """Whether the path of an example still changes between snapshots, and at which site most.

    Of two snapshots far apart the paths are less alike than of two close together, in whatever training.
    """
    array = select(results, "path_self_similarity", "similarity")
    if array is None or set(array.dims) != {"step", "site", "example"}:
        return None
    if results["path_self_similarity"].attrs.get("against", "previous") != "previous":
        return None
    probes = example_probe(array) if {"probe", "example_probe"} & set(array.coords) else ["train"]
    probes = np.broadcast_to(np.asarray(probes), array.sizes["example"])
    chosen = "train" if "train" in probes else str(probes[0])
    values = array.transpose("step", "site", "example").values[..., probes == chosen]
    # Mean over sites of each example, at the steps where it is defined: the same sites at both ends.
    steps = array["step"].values.astype(np.int64)
    found = _of_one_length(steps, np.isfinite(values).any((1, 2)))
    if found is None:
        return None
    at_first, at_last, length = found
    first, last = values[at_first], values[at_last]
    both = np.isfinite(first) & np.isfinite(last)
    sites = both.sum(0)
    start, end = (
        np.divide(np.where(both, table, 0.0).sum(0), sites, out=np.full(len(sites), np.nan), where=sites > 0)
        for table in (first, last)
    )
    known = end[np.isfinite(end)]
    # Where all are equal, nothing is known of how they vary but that they lie in [0, 1].
    now = sample(end) or (share(float(known.mean()), len(known)) if len(known) else None)
    change = sample(end - start)
    if now is None or change is None or not change.excludes(0):
        return None
    n = int(np.isfinite(end).sum())
    now = now.within(0, 1)
    settle = "settle" if change.above(0) else "grow more restless"
    text = (
        f"Paths through the network {settle}: the cosine of an example's path with its own "
        f"{how_many(length, 'update')} before went from {number(now.value - change.value)} (step "
        f"{steps[at_first]:,}) to {told(now)} (step {steps[at_last]:,}) over {whom(results, chosen, n)}"
    )
    intervals = {"last": now, "change": change}
    means = np.array([row[np.isfinite(row)].mean() if np.isfinite(row).any() else np.nan for row in last])
    if np.isfinite(means).sum() > 1:
        least = int(np.nanargmin(means))
        others = np.delete(last, least, 0)
        n_others = np.isfinite(others).sum(0)
        mean_others = np.divide(
            np.where(np.isfinite(others), others, 0.0).sum(0),
            n_others,
            out=np.full(len(n_others), np.nan),
            where=n_others > 0,
        )
        apart = sample(last[least] - mean_others, looks=len(means))
        if apart is not None and apart.below(0):
            intervals["most restless site"] = apart
            site = str(array["site"].values[least])
            text += f"; at site {site} it is less than elsewhere, by {told(-apart)}"
    return Finding("path_self_similarity", "path_self_similarity", text + ".", "difference", intervals, n,
                   whom(results, chosen, n))  # fmt: skip


def _of_one_length(steps: np.ndarray, defined: np.ndarray) -> tuple[int, int, int] | None:
    """Places of the two comparisons furthest apart that are over equally many updates, and how many.

    None where there are no two, or the last is in the first half of the run, of whose end it says nothing.
    """
    found: dict[int, tuple[int, int]] = {}
    for k in map(int, np.flatnonzero(defined)):
        if k > 0:
            length = int(steps[k] - steps[k - 1])
            found[length] = found.get(length, (k, k))[0], k
    pairs = [(first, last, length) for length, (first, last) in found.items() if first < last]
    widest = max(pairs, key=lambda pair: int(steps[pair[1]] - steps[pair[0]]), default=None)
    return widest if widest is not None and 2 * steps[widest[1]] >= steps[-1] else None
