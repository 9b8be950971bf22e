"""Lightning: a Trainer leaves the archive of the plain loop, and trains as without a recording."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import tracer
from tests import trainers
from tests.loops import blobs
from tests.trainers import (
    Net,
    assert_same,
    assert_same_weights,
    check_ids_of_collated,
    dropped,
    loader,
    notes_of,
    options,
    plain,
    reordered,
    sgd,
    watched,
)
from tracer.errors import RecordError
from tracer.recorder import RecordWarning

trainers.skip_if_torchvision_is_broken()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what it imports
    from lightning.fabric import Fabric
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.plugins.precision import MixedPrecision

    from tracer.integrations.lightning import Recording

IDS = {"minibatch": False, "probes": {}}  # nothing but rows and weights
pytestmark = [
    pytest.mark.slow,
    # Advice on settings that are on purpose: few workers, small logging intervals.
    pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning"),
    # Lightning asks torch's trees in the way that torch 2.13 deprecates.
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists:UserWarning"),
]


class Module(LightningModule):
    """The toy model with what Lightning wants to know of its training."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net().net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def validation_step(self, batch: Any, index: int) -> None:
        x, y = batch
        self.log("accuracy", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> Any:
        return sgd(self)


def train(
    path: Path,
    callbacks: Any = (),
    batches: Any = None,
    accumulation: int = 1,
    resume: Path | None = None,
    validation: Any = None,
    module: type[Module] = Module,
    **settings: Any,
) -> tuple[Module, list[int]]:
    usual = {"max_epochs": trainers.EPOCHS, "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(
        default_root_dir=path.parent,
        callbacks=list(callbacks),
        accumulate_grad_batches=accumulation,
        **{**usual, **quiet, **settings},
    )
    model = module()
    seen = watched(model)
    torch.manual_seed(1)
    trainer.fit(
        model, loader() if batches is None else batches, validation, ckpt_path=resume, weights_only=False
    )
    return model, seen


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_archive_is_that_of_the_plain_loop(tmp_path: Path, accumulation: int) -> None:
    recording = Recording(tmp_path / "a.zarr", **options())
    model, seen = train(tmp_path / "a.zarr", [recording], accumulation=accumulation)
    assert_same_weights(model, plain(tmp_path / "b.zarr", accumulation))
    assert_same(tmp_path / "a.zarr", tmp_path / "b.zarr")
    with tracer.open(tmp_path / "a.zarr") as archive:
        assert archive._source.read("steps/ids").tolist() == seen
        assert len(archive.epoch_ends) == trainers.EPOCHS


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_is_unchanged(tmp_path: Path, precision: str) -> None:
    outcomes = []
    for callbacks in ([], [Recording(tmp_path / "a.zarr", **options())]):
        batches = loader(generator=torch.Generator().manual_seed(5), num_workers=1)
        model, seen = train(
            tmp_path / "a.zarr", callbacks, batches, 2, validation=loader(), precision=precision
        )
        state = torch.get_rng_state(), batches.generator.get_state(), batches.sampler.generator.get_state()
        outcomes.append((model, seen, *(tuple(part.tolist()) for part in state)))
    assert_same_weights(outcomes[0][0], outcomes[1][0])
    assert outcomes[0][1:] == outcomes[1][1:]
    with tracer.open(tmp_path / "a.zarr") as archive:
        assert notes_of(archive) == []
        assert np.isfinite(archive.rows["accuracy"]).tolist() == [step in (3, 6) for step in range(7)]


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "workers": ({"num_workers": 2}, {}),
    "persistent workers": ({"num_workers": 1, "persistent_workers": True}, {}),
    "drop last": ({"drop_last": True}, {}),
    "a part of each epoch": ({}, {"limit_train_batches": 3}),
    "no whole epoch": ({}, {"max_steps": 9}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_the_batches_trained_on(tmp_path: Path, kind: str) -> None:
    of_loader, of_trainer = KINDS[kind]
    batches = loader(**of_loader)
    recording = Recording(tmp_path / "a.zarr", **options(**IDS))
    # The same loader serves for validation, in the midst of an epoch; persistent workers would serve only one.
    validation = None if kind == "persistent workers" else batches
    settings = {"val_check_interval": 2, **of_trainer}
    _, seen = train(tmp_path / "a.zarr", [recording], batches, validation=validation, **settings)
    with tracer.open(tmp_path / "a.zarr") as archive:
        assert archive.state == "complete"
        assert archive._source.read("steps/ids").tolist() == seen
        assert len(archive.epoch_ends) == (1 if kind == "no whole epoch" else 2)
    assert batches._iterator is None and type(batches.batch_sampler).__name__ == "BatchSampler"


@pytest.mark.parametrize(
    ("collate", "workers"), [(reordered, 0), (reordered, 1), (dropped, 0)], ids=["moved", "worker", "dropped"]
)
@pytest.mark.filterwarnings("ignore::tracer.recorder.messages.RecordWarning")
def test_ids_go_with_the_examples_that_a_collate_fn_moves(tmp_path: Path, collate: Any, workers: int) -> None:
    settings = {"collate_fn": collate, "num_workers": workers, "persistent_workers": workers > 0}
    settings["drop_last"] = True
    bare, plainly = train(tmp_path / "a.zarr", (), loader(**settings))
    batches = loader(**settings)
    model, seen = train(
        tmp_path / "a.zarr", [Recording(tmp_path / "a.zarr", **options(**IDS))], batches, accumulation=1
    )
    assert_same_weights(model, bare)
    assert seen == plainly and batches.collate_fn is collate and type(batches) is DataLoader
    if not workers:
        check_ids_of_collated(tmp_path / "a.zarr", seen, collate)
        return
    # Workers that last are those of the loader, which goes on with them without a recording.
    with tracer.open(tmp_path / "a.zarr") as archive:
        ids = archive._source.read("steps/ids")
        size = int(archive.rows["n_ids"].max())
        assert ids.reshape(-1, size).tolist() != (order := np.reshape(seen, (-1, size))).tolist()
        assert np.sort(ids.reshape(-1, size)).tolist() == np.sort(order).tolist()
        assert any("not seen in persistent workers" in note for note in archive.attributes["notes"])


class BreakOff(Callback):
    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 9:
            raise RuntimeError("the lights went out")


def test_a_training_that_broke_off_and_went_on(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"

    def again(*callbacks: Any, **settings: Any) -> list[int]:
        saving = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
        recording = Recording(path, resume=True, **options(**IDS))
        callbacks = (*callbacks, recording, saving)
        return train(path, callbacks, enable_checkpointing=True, **settings)[1]

    seen: list[int] = []
    with pytest.raises(RuntimeError, match="lights"):
        again(BreakOff())
    with tracer.open(path) as archive:
        assert archive.state == "interrupted" and archive.rows["step"][-1] == 9
        seen += archive._source.read("steps/ids")[: trainers.N].tolist()
    seen += again(resume=tmp_path / "epoch=0.ckpt")
    with tracer.open(path) as archive:
        assert archive.state == "complete" and archive.epoch_ends.tolist() == [6, 12]
        assert archive._source.read("steps/ids").tolist() == seen
        (entry,) = archive.attributes["tracer"]["resumes"]
        assert (entry["step"], entry["dropped"]) == (6, 9)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(*pair, i) for i, pair in enumerate(zip(*blobs(trainers.N), strict=True))])


class Numbered(Module):
    def training_step(self, batch: Any, index: int) -> Tensor:
        return super().training_step(batch[:2], index)


def test_ids_that_are_not_known_are_left_out_or_given(tmp_path: Path) -> None:
    batches = DataLoader(Stream(), batch_size=trainers.BATCH)
    changes = options(minibatch=False, probes={"train": blobs(5)})
    with pytest.warns(RecordWarning, match=r"No example ids .* Stream, which is iterable.* ids="):
        bare = Recording(tmp_path / "a.zarr", **options(**IDS))
        train(tmp_path / "a.zarr", [bare], batches, module=Numbered)
    given = Recording(tmp_path / "b.zarr", ids=lambda batch: batch[2], module="net", **changes)
    _, seen = train(tmp_path / "b.zarr", [given], batches, module=Numbered)
    with tracer.open(tmp_path / "a.zarr") as archive:
        assert archive.rows["n_ids"].tolist() == [0] * 13
        assert "No example ids" in archive.attributes["notes"][0]
    with tracer.open(tmp_path / "b.zarr") as archive:
        assert archive._source.read("steps/ids").tolist() == seen == [*range(trainers.N)] * 2
        assert archive.layers == ["0", "1", "4"]


def test_several_loaders_have_no_common_ids(tmp_path: Path) -> None:
    class Two(Module):
        def training_step(self, batch: Any, index: int) -> Tensor:
            return super().training_step(batch[0], index)

    with pytest.warns(RecordWarning, match="the trainer has a list"):
        train(
            tmp_path / "a.zarr",
            [Recording(tmp_path / "a.zarr", **options(**IDS))],
            [loader(), loader()],
            module=Two,
        )
    assert tracer.open(tmp_path / "a.zarr").rows["n_ids"].sum() == 0


def test_options_are_those_of_record(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="unexpected keyword argument 'snapshot'"):
        Recording(tmp_path / "a.zarr", snapshot=tracer.epochs())


def test_updates_that_a_scaler_leaves_out_are_marked(tmp_path: Path) -> None:
    class Overflowing(Module):
        def training_step(self, batch: Any, index: int) -> Tensor:
            return super().training_step(batch, index) * (float("inf") if index == 1 else 1.0)

    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=4.0))
    recording = Recording(tmp_path / "a.zarr", **options(**IDS))
    _, seen = train(tmp_path / "a.zarr", [recording], module=Overflowing, plugins=[scaled], max_epochs=1)
    with tracer.open(tmp_path / "a.zarr") as archive:
        assert archive.rows["skipped"].tolist() == [step == 2 for step in range(7)]
        assert archive._source.read("steps/ids").tolist() == seen
        assert np.isfinite(archive.rows["loss"]).tolist() == [step not in (0, 2) for step in range(7)]


def test_what_fabric_prepared_is_recorded_under_its_own_names(tmp_path: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    x, y = blobs(12)
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    model, optimizer = fabric.setup(inner, torch.optim.SGD(inner.parameters(), lr=0.1))
    loader = fabric.setup_dataloaders(DataLoader(TensorDataset(x, y, torch.arange(12)), 4, shuffle=True))
    goal: dict[str, Any] = {"loss": F.cross_entropy, "probes": {"train": (x, y)}, "minibatch": ("loss",)}
    numbers = []
    with tracer.record(tmp_path / "a", model, optimizer, **goal) as run:
        for a, b, number in run.batches(loader):
            fabric.backward(F.cross_entropy(model(a), b))
            optimizer.step()
            optimizer.zero_grad()
            numbers.append(number.tolist())
    archive = tracer.open(tmp_path / "a")
    assert [archive.ids(step).tolist() for step in (1, 2, 3)] == numbers
    assert [row["name"] for row in archive.tensors] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert archive.card["optimizer"]["class"] == "torch.optim.sgd.SGD" and archive.state == "complete"
