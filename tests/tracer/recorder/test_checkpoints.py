"""A folder of saved weights becomes the archive that recording would have written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tracer
from tests.loops import blobs, mlp
from tracer.errors import RecordError
from tracer.recorder.checkpoint_files import load_into
from tracer.recorder.checkpoints import import_checkpoints
from tracer.verify import verify

safetensors = pytest.importorskip("safetensors.torch", reason="pip install tracer-nn[test]")
load_file, save_file = safetensors.load_file, safetensors.save_file

PROBES = {"train": (blobs()[0][:12], blobs()[1][:12]), "test": blobs(9, seed=7)}
STEPS = (0, 4, 8, 12)


class Normed(nn.Module):
    """Buffers of two dtypes, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(x[:, None]))).flatten(1))


def train(folder: Path, model: nn.Module) -> Path:
    """Record twelve updates and save the weights at the same steps, as a published run would have them."""
    x, y = blobs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    folder.mkdir()

    def save(step: int) -> None:
        state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        save_file(state, folder / f"step-{step}.safetensors")

    save(0)
    path = folder.with_suffix(".zarr")
    options: dict[str, Any] = {"loss": F.cross_entropy, "probes": PROBES, "snapshots": tracer.every(4)}
    with tracer.record(path, model, optimizer, gradients="exact", **options):
        for step in range(1, 13):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            if step in STEPS:
                save(step)
    return path


@pytest.mark.parametrize("factory", [pytest.param(mlp, marks=pytest.mark.slow), Normed])
def test_archive_equals_the_recorded_one(factory: Any, tmp_path: Path) -> None:
    torch.manual_seed(3)
    path = train(tmp_path / "files", factory())
    made = import_checkpoints(
        tmp_path / "files",
        tmp_path / "made.zarr",
        factory=factory,
        probes=PROBES,
        loss=F.cross_entropy,
        gradients="exact",
    )
    with tracer.open(path) as recorded, tracer.open(made) as imported:
        assert imported.snapshots.tolist() == recorded.snapshots.tolist() == list(STEPS)
        assert imported.state == "complete"
        for name in ("tensors", "site_table", "call_table", "layer_table"):
            assert getattr(imported, name) == getattr(recorded, name)
        one, other = recorded._source, imported._source
        assert one.streams() == other.streams()
        for group in one.streams():
            assert one.group_attributes(group) == other.group_attributes(group)
            for array in one.children(group):
                if array != "epoch_end":
                    values = one.read(f"{group}/{array}"), other.read(f"{group}/{array}")
                    assert values[0].tobytes() == values[1].tobytes(), (group, array)
        assert recorded.network(8)[0] == imported.network(8)[0]
        assert np.array_equal(recorded.probes["test"].ids, imported.probes["test"].ids)
        assert imported.rows["step"].tolist() == list(STEPS)
        assert np.isnan(imported.rows["loss"]).all()
    assert verify(made, full=True).findings == []


def test_numbers_may_be_epochs(tmp_path: Path) -> None:
    for epoch in range(3):
        (tmp_path / f"checkpoint-{epoch}").mkdir()
        save_file(mlp(epoch).state_dict(), tmp_path / f"checkpoint-{epoch}" / "model.safetensors")
    made = import_checkpoints(tmp_path, tmp_path / "made.zarr", factory=mlp, probes={}, epochs=True)
    with tracer.open(made) as archive:
        assert archive.epoch_ends.tolist() == [1, 2]
        assert archive.epoch_of(2) == 2
        expected = mlp(1).state_dict()
        for name, values in archive.weights(1).items():
            assert np.array_equal(values, expected[name])


def test_steps_may_be_given(tmp_path: Path) -> None:
    for name in ("first", "last"):
        save_file(mlp().state_dict(), tmp_path / f"{name}.safetensors")
    options: dict[str, Any] = {"factory": mlp, "probes": {}}
    for number, steps in enumerate(
        ({"first.safetensors": 0, "last.safetensors": 7}, lambda file: 7 * (file.stem == "last"))
    ):
        made = import_checkpoints(tmp_path, tmp_path / f"{number}.zarr", steps=steps, **options)
        assert tracer.open(made).snapshots.tolist() == [0, 7]
    for given, sentence in (
        (None, "no number in 'first.safetensors'"),
        ({"first.safetensors": 0}, "says nothing of 'last.safetensors'"),
        (lambda file: 1, "'first.safetensors' and 'last.safetensors' are both of step 1"),
    ):
        with pytest.raises(RecordError, match=sentence):
            import_checkpoints(tmp_path, tmp_path / "refused.zarr", steps=given, **options)
    assert not (tmp_path / "refused.zarr").exists()


def test_pickled_files_are_read_on_demand_and_as_data_only(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for step in STEPS:
        torch.save({"state_dict": mlp(step).state_dict()}, tmp_path / "files" / f"step-{step}.pt")
    options: dict[str, Any] = {"factory": mlp, "probes": {}, "pattern": "*.pt"}
    with pytest.raises(RecordError, match=r"load_pt=True reads what torch.save wrote"):
        import_checkpoints(tmp_path / "files", tmp_path / "made.zarr", **options)
    made = import_checkpoints(tmp_path / "files", tmp_path / "made.zarr", load_pt=True, **options)
    with tracer.open(made) as archive:
        assert np.array_equal(archive.weights(12)["0.weight"], mlp(12).state_dict()["0.weight"])
    torch.save({"0.weight": Path("x")}, tmp_path / "files" / "step-99.pt")
    with pytest.raises(RecordError, match=r"'step-99.pt' holds more than tensors"):
        load_into(mlp(), tmp_path / "files" / "step-99.pt", load_pt=True)
    torch.save({"lr": 0.1}, tmp_path / "files" / "step-99.pt")
    with pytest.raises(RecordError, match=r"'step-99.pt' is no state_dict"):
        load_into(mlp(), tmp_path / "files" / "step-99.pt", load_pt=True)


def test_tied_tensors_and_wrappers(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.two.weight = self.one.weight

    model, weight = Tied(), torch.arange(9.0).reshape(3, 3)
    save_file({"_orig_mod.module.one.weight": weight}, tmp_path / "a1.safetensors")
    load_into(model, tmp_path / "a1.safetensors")
    assert torch.equal(model.two.weight, weight)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = mlp().state_dict()
    file = tmp_path / "a1.safetensors"
    for change, sentence in (
        ({"more": torch.zeros(2)}, "holds, unlike the model, more"),
        ({"0.weight": torch.zeros(1, 1)}, r"does not fit the model: .*0\.weight"),
    ):
        save_file({**state, **change}, file)
        with pytest.raises(RecordError, match=sentence):
            load_into(mlp(), file)
    save_file({"0.bias": state["0.bias"]}, file)
    with pytest.raises(RecordError, match=r"lacks 0.weight, 2.weight, 2.bias, 4.weight, 4.bias"):
        load_into(mlp(), file)


def test_a_snapshot_in_several_files_and_with_buffers(tmp_path: Path) -> None:
    """As large models are saved: weights split over files in the folder of a step."""
    recorded = train(tmp_path / "files", Normed())
    for step in STEPS:
        state = load_file(tmp_path / "files" / f"step-{step}.safetensors")
        names, folder = sorted(state), tmp_path / "split" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        for k in range(3):
            part = {name: state[name] for name in names[k::3]}
            save_file(part, folder / f"model-{k + 1:05}-of-00003.safetensors")
        (folder / "model.safetensors.index.json").write_text("{}")
    options: dict[str, Any] = {
        "factory": Normed,
        "probes": PROBES,
        "loss": F.cross_entropy,
        "gradients": "exact",
    }
    made = import_checkpoints(tmp_path / "split", tmp_path / "made.zarr", **options)
    with tracer.open(made) as one, tracer.open(recorded) as other:
        assert one.snapshots.tolist() == list(STEPS)
        for step in STEPS:
            assert np.array_equal(one.gram(step), other.gram(step))
            for name, values in other.weights(step).items():
                assert np.array_equal(one.weights(step)[name], values)
    lost = tmp_path / "split" / "checkpoint-4" / "model-00002-of-00003.safetensors"
    lost.unlink()
    with pytest.raises(
        RecordError, match=r"one of 3 files of a snapshot, of which 'model-00002-of-00003\.safe"
    ):
        import_checkpoints(tmp_path / "split", tmp_path / "again.zarr", **options)
    lost.write_bytes(b"torn")
    with pytest.raises(RecordError, match="cannot be read as safetensors"):
        import_checkpoints(tmp_path / "split", tmp_path / "again.zarr", **options)


def test_an_empty_folder_and_a_missing_loss_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no file in .* matches"):
        import_checkpoints(tmp_path, tmp_path / "made.zarr", factory=mlp, probes={})
    save_file(mlp().state_dict(), tmp_path / "a1.safetensors")
    with pytest.raises(RecordError, match="probes need a loss"):
        import_checkpoints(tmp_path, tmp_path / "made.zarr", factory=mlp, probes=PROBES)
    with pytest.raises(RecordError, match="probes is 'train', expected a mapping"):
        import_checkpoints(tmp_path, tmp_path / "made.zarr", factory=mlp, probes="train")
    with pytest.raises(RecordError, match="model is None, expected the torch"):
        import_checkpoints(tmp_path, tmp_path / "made.zarr", factory=lambda: None, probes={})
    for pattern in ("", "/weights/*"):
        with pytest.raises(RecordError, match=f"pattern='{pattern[:1]}.*names no files within a folder"):
            import_checkpoints(tmp_path, tmp_path / "made.zarr", factory=mlp, probes={}, pattern=pattern)
