"""Tables over pairs of examples that do not fit in memory: made in bands of rows, with the same results."""

from pathlib import Path

import pytest
import xarray as xr

import analyze
from analyze.arrays import bands
from analyze.arrays.bands import Bands
from tests.loops import blobs
from tests.sketched import record
from tests.synthetic import write_archive

CARDS = {name: card for name, card in analyze.available_metrics().items() if card.bands}
PLENTY = 1 << 28
LITTLE = {"exact": 1 << 18, "sketch": 300_000}
PAIRED = {"exact": 1 << 20, "sketch": 700_000}  # what returns a number for each pair


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bands")
    exact = folder / "exact.zarr"
    write_archive(exact, steps=(0, 2), probes={"train": 100, "test": 60}, n_gradients=60)
    probes = {"train": blobs(60, (3, 2, 2)), "test": blobs(30, (3, 2, 2), seed=3)}
    return {"exact": exact, "sketch": record(folder / "sketch.zarr", "sketch", 1, probes=probes)}


@pytest.mark.parametrize(
    ("kind", "name"),
    [("exact", name) for name in CARDS] + [("sketch", name) for name, card in CARDS.items() if card.sketched],
)
def test_bands_change_no_result(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    monkeypatch.setattr(bands, "BYTES", 3000)
    sizes: set[int] = set()
    plain = Bands.__init__

    def init(self: Bands, *arguments: object) -> None:
        plain(self, *arguments)  # type: ignore[arg-type]
        sizes.add(len(self.rows))

    monkeypatch.setattr(Bands, "__init__", init)
    whole = analyze.run(runs[kind], [name], memory=PLENTY)[name]
    assert not sizes
    banded = analyze.run(runs[kind], [name], memory=(PAIRED if name == "tracin" else LITTLE)[kind])[name]
    assert min(sizes) > 1
    xr.testing.assert_allclose(whole, banded, rtol=1e-9, atol=1e-12)
