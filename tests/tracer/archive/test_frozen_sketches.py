"""Sketches of gradients in archives of earlier releases, against their definition and the gradients PyTorch gave."""

from pathlib import Path

import numpy as np
import pytest

import tracer
from tests.archives.make import N_GRADIENTS, STEPS, TOLERANCE
from tests.oracles.sketches import BLOCKS, by_definition
from tests.tracer.archive.test_frozen_archives import VERSIONS
from tracer.verify import verify

MADE = [version / "sketches.zip" for version in VERSIONS if (version / "sketches.zip").is_file()]


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.parent.name)
def test_frozen_sketches(path: Path) -> None:
    assert verify(path, full=True).findings == [] and path.stat().st_size < 200_000
    with np.load(path.parent / "numbers.npz") as numbers, tracer.open(path) as archive:
        parameters = {layer["name"]: layer["parameters"] for layer in archive.layer_table}
        for name, probe in archive.probes.items():
            sketch = probe.sketch
            assert (sketch["seed"], sketch["blocks"], sketch["tolerance"]) == (0, BLOCKS, TOLERANCE)
            assert [row["buckets"] for row in sketch["layers"]] == [2, 2, 0, 2]
            for step in STEPS:
                values = probe.sketches(step)
                for row in sketch["layers"]:
                    rows = [
                        numbers[f"gradients/{name}/{step}/{tensor}"] for tensor in parameters[row["layer"]]
                    ]
                    if row["buckets"]:
                        named = zip(rows, parameters[row["layer"]], strict=True)
                        sums = [by_definition(one, tensor, row["buckets"], 0) for one, tensor in named]
                        expected = sum(sums).reshape(N_GRADIENTS, -1) / BLOCKS**0.5
                    else:
                        expected = np.concatenate([one.reshape(N_GRADIENTS, -1) for one in rows], axis=1)
                    got = values[:, row["offset"] : row["offset"] + row["size"]]
                    assert np.allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_there_is_one() -> None:
    assert MADE
