"""What grows with the square of the examples is weighed before it is computed, and refused in one sentence."""

import os
import resource
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analyze
from analyze import metric
from analyze.engine.blocks import blocks_of
from analyze.engine.plan import Plan, made_by, made_bytes, make_plan
from analyze.errors import AnalysisError
from tests.synthetic import write_archive
from tracer.errors import MissingTraceError

N = 400
PAIRS = 8 * N * N


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("work") / "run.zarr"
    write_archive(path, steps=(0, 2), probes={"train": N})
    return path


@pytest.mark.parametrize(("name", "pairs"), [("cka", 3 * 2), ("activation_cross_similarity", 7)])
def test_kernels_over_pairs_count_as_memory(run: Path, name: str, pairs: int) -> None:
    from tracer.archive import open

    with open(run) as archive:
        plan = make_plan(analyze.available_metrics()[name], {}, archive, {})
        assert made_bytes(plan, archive) == pairs * PAIRS
        failed: dict[str, object] = {}
        assert not list(blocks_of([plan], archive, PAIRS, failed))  # type: ignore[arg-type]
        assert list(blocks_of([plan], archive, 20 * PAIRS, {}))


@pytest.mark.parametrize("name", ["cka", "path_distance"])
def test_what_is_too_large_says_which_option_lifts_it(run: Path, name: str) -> None:
    with pytest.raises((AnalysisError, MissingTraceError), match="record fewer examples") as caught:
        analyze.run(run, [name], memory=PAIRS // 2)
    assert "\n" not in str(caught.value)


@metric(reads=("losses",), variables={"mean": ("step",)}, title="Mean loss")
def undeclared(losses: np.ndarray) -> dict[str, Any]:
    """Mean loss of all examples."""
    return {"mean": losses.mean(-1)}


@metric(reads=("losses",), variables={"mean": ("step",)}, makes=(), title="Mean loss")
def declared(losses: np.ndarray) -> dict[str, Any]:
    """The same, by one that says that it makes nothing of pairs."""
    return {"mean": losses.mean(-1)}


def test_what_declares_nothing_is_taken_to_compare_all_pairs(run: Path) -> None:
    with pytest.raises(MissingTraceError, match=r"record fewer examples \(capture\), or declare makes=\(\)"):
        analyze.run(run, [undeclared], memory=PAIRS // 2)
    computed = analyze.run(run, [declared], memory=PAIRS // 2)["declared"]
    assert computed["mean"].equals(analyze.run(run, [undeclared])["undeclared"]["mean"])


@pytest.mark.parametrize("name", list(analyze.available_metrics()))
def test_every_metric_here_says_what_it_makes_of_examples(name: str) -> None:
    card = analyze.available_metrics()[name]
    assert card.makes is not None or not made_by(Plan(card, card.options))


LIMIT = 40 << 20  # bytes: half of one number for each pair of MANY examples
MANY = 3_300


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "run.zarr"
    write_archive(path, steps=(0, 2), probes={"train": MANY, "test": 40}, n_gradients=8)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", list(analyze.available_metrics()))
def test_no_metric_makes_what_grows_with_pairs_unasked(run: Path, large: Path, name: str) -> None:
    """Whatever a metric makes of very many examples counts as memory: it is computed within it, or refused."""
    with suppress(AnalysisError, MissingTraceError):
        analyze.run(run, [name])  # what is loaded once
    tracemalloc.start()
    try:
        analyze.run(large, [name], memory=LIMIT)
    except (AnalysisError, MissingTraceError) as error:
        assert "\n" not in str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * LIMIT


VERY_MANY = 200_000
SECONDS, BYTES = 300, 6 << 30  # on the processor, and of memory in use and asked for


@pytest.fixture(scope="module")
def very_large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("very_large") / "run.zarr"
    write_archive(path, steps=(0, 2), probes={"train": VERY_MANY, "test": 64}, n_gradients=64)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", list(analyze.available_metrics()))
def test_no_metric_works_for_hours_unasked(very_large: Path, name: str) -> None:
    """In a process that is ended by the system where it takes more; what is refused is refused before."""
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
            analyze.run(very_large, [name])
        except (AnalysisError, MissingTraceError) as error:
            os._exit("MemoryError" in str(error))
        except BaseException:
            os._exit(2)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
