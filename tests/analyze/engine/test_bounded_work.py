"""What grows with the square of the examples is weighed before it is computed, and refused in one sentence."""

import tracemalloc
from pathlib import Path

import pytest

import analyze
from analyze.engine.blocks import blocks_of
from analyze.engine.plan import made_bytes, make_plan
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


LIMIT = 40 << 20  # bytes: half of one number for each pair of MANY examples
MANY = 3_300


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "run.zarr"
    write_archive(path, steps=(0, 2), probes={"train": MANY, "test": 40}, n_gradients=8)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", list(analyze.available_metrics()))
def test_no_metric_makes_what_grows_with_pairs_unasked(large: Path, name: str) -> None:
    """Whatever a metric makes of very many examples counts as memory: it is computed within it, or refused."""
    tracemalloc.start()
    try:
        analyze.run(large, [name], memory=LIMIT)
    except (AnalysisError, MissingTraceError) as error:
        assert "\n" not in str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * LIMIT
