"""The figures of the literature: every script is a command, the gallery says what they left, and all of them run."""

import ast
import json
import os
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

import tracer
from tests import ROOT
from tracer import archive
from tracer.errors import ArchiveError

FIGURES = ROOT / "examples" / "figures"
GALLERY = ROOT / "docs" / "gallery"
SCRIPTS = sorted(path for path in FIGURES.glob("*.py") if "\n@figure(" in path.read_text(encoding="utf-8"))
NAMES = [path.stem for path in SCRIPTS]
WORDS = {
    "holds": "supported", "partly": "partly supported", "does not hold": "contradicted",
    "cannot be told": "cannot be told",
}  # fmt: skip
OPTIONS = ("--data", "--out", "--quick", "--full", "--device", "--seed", "--seeds")


@pytest.fixture
def folder(monkeypatch):
    """The folder of the scripts on the path, as when one of them is run; what they import is forgotten after."""
    monkeypatch.syspath_prepend(str(FIGURES))
    before = set(sys.modules)
    yield FIGURES
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(FIGURES)):
            del sys.modules[name]


@pytest.fixture
def gallery():
    return runpy.run_path(str(GALLERY / "make.py"))


def test_every_script_is_a_command_and_says_what_it_can_do(folder):
    assert len(SCRIPTS) >= 10
    for path in SCRIPTS:
        command = runpy.run_path(str(path))["main"]
        assert isinstance(command, click.Command), path.name
        result = CliRunner().invoke(command, ["--help"])
        assert result.exit_code == 0, path.name
        missing = [option for option in OPTIONS if option not in result.output]
        assert not missing, f"{path.name} has no {missing}"


@pytest.mark.parametrize("path", SCRIPTS, ids=NAMES)
def test_a_script_is_a_page_to_read(path, gallery):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    parts = gallery["text"]({"about": ast.get_docstring(ast.parse(text))})
    assert list(parts) == ["Title", "Claim", "Here", "Verdict"]


def test_the_gallery_shows_every_script(gallery):
    shown = [found["script"] for found in gallery["results"]()]
    assert sorted([*shown, *gallery["unrun"]()]) == NAMES
    first = gallery["pages"]()["README.md"]
    assert all(name in first for name in NAMES)


def test_the_pages_of_the_gallery_follow_from_the_results(gallery):
    for name, text in gallery["pages"]().items():
        written = (GALLERY / name).read_text(encoding="utf-8")
        assert written == text, f"{name}: run python docs/gallery/make.py"
    kept = {path.name for path in GALLERY.glob("*.md")}
    assert kept == set(gallery["pages"]()), "a page without a result"


@pytest.mark.parametrize("path", sorted((GALLERY / "results").glob("*.json")), ids=lambda path: path.stem)
def test_a_result_belongs_to_its_script(path, gallery):
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["script"] == path.stem
    assert result["scale"] != "quick"
    drawing = path.with_suffix(Path(result["figure"]).suffix)
    assert 1000 < drawing.stat().st_size < 200_000
    if not gallery["rerun"](result):  # made before there were rules: no verdict, and the page says so
        assert "Verdict" not in gallery["page"](result) and "Not yet rerun" in gallery["page"](result)
        return
    assert set(result["seeds"]) <= set(gallery["FINAL"]) and len(result["seeds"]) >= 8
    assert result["verdict"] == gallery["verdict"](gallery["outcomes"](result))
    # A claim or rule that was reworded after the run would not be the one the verdict was given by.
    script = (FIGURES / f"{path.stem}.py").read_text(encoding="utf-8")
    assert result["about"].split() == ast.get_docstring(ast.parse(script)).split()


def test_every_verdict_that_changed_says_why(gallery):
    changes = gallery["_changes"]()
    for result in filter(gallery["rerun"], gallery["results"]()):
        change = changes.get(result["script"])
        if change is not None and ("last" not in change or WORDS[change["last"]] != result["verdict"]):
            assert change["why"], f"{result['script']} has another verdict than the last edition"


def test_a_result_is_computed_once_and_again_where_its_source_changed(folder, tmp_path, monkeypatch):
    cache = runpy.run_path(str(FIGURES / "cache.py"))
    calls = []

    def measure(seed):
        calls.append(seed)
        return {"value": seed + 0.5, "array": np.arange(3), "inner": {"word": "x"}}

    first, seconds = cache["cached"](tmp_path, [0], measure, 0)
    again, _ = cache["cached"](tmp_path, [0], measure, 0)
    assert calls == [0] and sum(seconds.values()) >= 0 and first["value"] == again["value"] == 0.5
    assert again["inner"] == {"word": "x"} and again["array"].tolist() == [0, 1, 2]
    cache["cached"](tmp_path, [1], measure, 1)
    assert calls == [0, 1]
    import layers
    import overfitting

    before = cache["sources"](layers.profile)
    assert {"fitting.py:fit", "networks.py:mlp", "layers.py:HIDDEN", "training_data.py:load"} <= set(before)
    assert not any("curve" in name for name in before), "a drawing does not decide a result"
    monkeypatch.setattr(layers, "HIDDEN", 4)
    assert cache["sources"](layers.profile) != before
    assert cache["sources"](overfitting.record) == cache["sources"](overfitting.record)


def test_a_network_of_several_results_costs_once(folder, tmp_path):
    cache = runpy.run_path(str(FIGURES / "cache.py"))

    def first(seed):
        cache["Trained"].note(tmp_path / "study" / "mlp-0.zarr", 100.0, new=True)
        return {"value": seed}

    def second(seed):
        cache["Trained"].note(tmp_path / "study" / "mlp-0.zarr", 100.0, new=False)
        return {"value": seed}

    one, other = (cache["cached"](tmp_path, [0], function, 0)[1] for function in (first, second))
    assert one["study:mlp-0"] == other["study:mlp-0"] == 100 and len(one | other) == 3
    # What a result took besides is without the training: it did not really take 100 seconds here.
    assert -100.1 < min(one.values()) < -99 and 0 <= min(other.values()) < 1


def test_labels_are_replaced_where_asked_and_nowhere_else(folder):
    load = runpy.run_path(str(FIGURES / "training_data.py"))["load"]
    plain = load("digits", Path(), 200, 50)
    mixed = load("digits", Path(), 200, 50, shuffled=0.5, confusion=40)
    assert (plain.y_train == plain.true_train).all()
    assert (mixed.x_train[:200] == plain.x_train).all() and (mixed.y_test == plain.y_test).all()
    assert mixed.group.tolist() == [0] * 200 + [1] * 40
    changed = (mixed.y_train != mixed.true_train)[:200].sum().item()
    assert 70 <= changed <= 100  # a random label is the true one by chance one time in ten
    assert (mixed.y_train[200:] == mixed.true_train[200:]).float().mean() < 0.4
    assert np.allclose(plain.raw(plain.x_train).amax(), 1) and np.allclose(plain.raw(plain.x_train).amin(), 0)


def test_an_archive_of_the_same_settings_is_used_again_and_of_others_refused(folder, tmp_path):
    parts = runpy.run_path(str(FIGURES / "shared.py"))
    data = parts["load"]("digits", Path(), 40, 20)

    def fit(epochs, **options):
        model = lambda: parts["mlp"]([64, 8, 10])  # noqa: E731
        return parts["fit"](tmp_path / "a.zarr", model, data, epochs=epochs, gradients="none", **options)

    first = archive.open(fit(2)).run_id
    assert archive.open(fit(2)).run_id == first
    with pytest.raises(click.ClickException, match="other settings"):
        fit(3)


def test_an_archive_that_is_being_written_is_left_alone_and_one_that_was_stopped_begun_anew(folder, tmp_path):
    parts, path = runpy.run_path(str(FIGURES / "shared.py")), tmp_path / "a.zarr"
    data, model = parts["load"]("digits", Path(), 40, 20), partial(parts["mlp"], [64, 8, 10])
    fit = partial(parts["fit"], path, model, data, epochs=2, gradients="none")
    fit()
    with tracer.record(path, model(), None, probes={}, exists="overwrite") as run:
        with pytest.raises(ArchiveError, match="is writing"):
            fit()
        run.flush()
    assert archive.open(path).state == "interrupted"
    assert archive.open(fit()).state == "complete"


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=NAMES)
def test_a_script_runs(path, tmp_path):
    """With `--quick`, on images of the shape of the real ones; classes are told by where an image is bright."""
    for name, shape, n in (("mnist", (28, 28), 1200), ("cifar10", (32, 32, 3), 1200)):
        arrays = {}
        rng = np.random.default_rng(0)
        for split in ("train", "test"):
            y = np.arange(n) % 10
            images = rng.integers(0, 120, (n, *shape))
            for k in range(10):
                images[y == k, 2 * k : 2 * k + 6] += 120
            arrays |= {f"x_{split}": images.astype(np.uint8), f"y_{split}": y}
        np.savez(tmp_path / f"{name}.npz", **arrays)
    real = os.environ.get("TRACER_DATA", str(tmp_path))
    command = [sys.executable, str(path), "--quick", "--data", real]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=1200)
    found = json.loads((tmp_path / "figures" / path.stem / "numbers.json").read_text(encoding="utf-8"))
    assert found["scale"] == "quick" and found["numbers"] and found["checks"]
    assert (tmp_path / "figures" / path.stem / found["figure"]).stat().st_size > 1000
