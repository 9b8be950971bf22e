"""What is probed computes what the model computes, or it is said what is not in it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

import analyze
import tracer
from tracer.errors import MissingTraceError
from tracer.recorder import RecordWarning
from tracer.verify import verify


class Residual(nn.Module):
    """Dropout in evaluation mode gives its input itself, which is then written into."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x)
        out = self.drop(h)
        out += self.b(x)
        return self.c(out + h)


class Gates(nn.Module):
    """Comparisons in place are numbers, which add up."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(x * (self.a(x).gt_(0) + self.b(x).ge_(0)))


class Cast(Gates):
    """A module's own dtype is kept by what is written into it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.a(x).gt_(0).logical_not_())


def record(path: Path, model: nn.Module) -> tuple[tracer.archive.Archive, np.ndarray]:
    x, y = torch.randn(6, 5), torch.arange(6) % 3
    with tracer.record(path, model, None, loss=F.cross_entropy, probes={"train": (x, y)}) as run:
        run.step()
    return tracer.open(path), F.cross_entropy(model.eval()(x), y, reduction="none").detach().numpy()


@pytest.mark.parametrize("kind", [Gates, pytest.param(Cast, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:The loss does not depend on:tracer.recorder.RecordWarning")
def test_comparisons_in_place_keep_the_dtype(tmp_path: Path, kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    archive, expected = record(tmp_path / "run.zarr", kind())
    assert archive.card["network"] == "table"
    np.testing.assert_allclose(archive.probes["train"].losses(0), expected, rtol=1e-5)


def test_a_table_that_computes_something_else_is_not_taken(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with pytest.warns(RecordWarning, match="computes something else than the model"):
        archive, expected = record(tmp_path / "run.zarr", Residual())
    assert archive.card["network"] == "eager"
    for step in (0, 1):
        np.testing.assert_allclose(archive.probes["train"].losses(step), expected, rtol=1e-5)


def test_forward_hooks_of_the_user_s_are_told(tmp_path: Path) -> None:
    model = nn.Sequential(weight_norm(nn.Linear(5, 5)), nn.ReLU(), nn.Linear(5, 3))
    model.register_full_backward_hook(lambda *_: None)
    assert record(tmp_path / "none.zarr", model)[0].attributes["notes"] == []
    model[0].register_forward_hook(lambda _, __, out: out + 1)
    model[2].register_forward_pre_hook(lambda *_: None)
    (note,) = record(tmp_path / "run.zarr", model)[0].attributes["notes"]
    assert note.startswith("Forward hooks of your own (on '0', '2') are no part of what is probed")


class Prototypes(nn.Module):
    """Scales its last weights to length 1 at each pass, as losses of classes on a sphere do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(5, 5), nn.Linear(5, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.c.weight.copy_(F.normalize(self.c.weight, dim=1))
        return self.c(self.a(x).relu())


def test_gradients_that_are_off_are_not_told_to_be_zero(tmp_path: Path) -> None:
    with pytest.warns(RecordWarning, match=r"differs .* for c\.weight") as said:
        archive, _ = record(tmp_path / "run.zarr", Prototypes())
    assert archive.card["gradients"]["mode"] == "none"
    assert len(said) == 1 and len(archive.attributes["notes"]) == 1
    with pytest.raises(
        MissingTraceError, match=r"needs `gram` .* its recording said: The model's own backward"
    ):
        analyze.run(tmp_path / "run.zarr", metrics=["stiffness"])


class Attends(nn.Module):
    """Has no table, and attention between two calls of one kind."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.m, self.c = (
            nn.Linear(8, 8),
            nn.MultiheadAttention(8, 2, batch_first=True),
            nn.Linear(8, 3),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = torch.linalg.lstsq(*[torch.eye(2).expand(x.shape[0], -1, -1)] * 2)[0][:, :1, :1]
        h = F.relu(self.a(x)) * one
        h = h + self.m(h, h, h)[0]
        return self.c(F.relu(self.a(h)).mean(1))


class Scripted(nn.Module):
    """Holds a part that is no module of Python's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.jit.script(nn.Sequential(nn.Linear(8, 4), nn.ReLU())), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = torch.linalg.lstsq(*[torch.eye(2).expand(x.shape[0], -1, -1)] * 2)[0][:, 0, :1]
        return self.b(F.relu(self.a(x.mean(1)))) * one


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:A private copy:UserWarning")
@pytest.mark.parametrize(("kind", "sites"), [(Attends, {":relu", ":relu#2"}), (Scripted, {":relu"})])
def test_a_model_that_is_probed_itself_keeps_its_sites(
    tmp_path: Path, kind: type[nn.Module], sites: set[str]
) -> None:
    torch.manual_seed(0)
    model, x, y = kind(), torch.randn(6, 4, 8), torch.arange(6) % 3
    with tracer.record(
        tmp_path / "run.zarr", model, None, loss=F.cross_entropy, probes={"train": (x, y)}
    ) as run:
        run.step()
    with tracer.open(tmp_path / "run.zarr") as archive:
        assert archive.card["network"] == "eager" and sites <= set(archive.sites)
        assert not [note for note in run.notes if "another way" in note]
        expected = F.cross_entropy(model.eval()(x), y, reduction="none").detach()
        np.testing.assert_allclose(archive.probes["train"].losses(0), expected, rtol=1e-5)


class OneHead(nn.Module):
    """All heads of the queries share one of keys and values; ids that are clamped are no activations."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.q, self.kv, self.c = (
            nn.Embedding(7, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 4),
            nn.Linear(8, 3),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.e(x.clamp(min=0))
        q, kv = self.q(h).unflatten(2, (2, 4)).transpose(1, 2), self.kv(h)[:, None]
        return self.c(F.scaled_dot_product_attention(q, kv, kv).transpose(1, 2).flatten(2).mean(1))


def test_attention_of_one_head_for_all_is_replayed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    probe = torch.randint(-2, 7, (6, 4)), torch.arange(6) % 3
    with tracer.record(
        tmp_path / "run.zarr", OneHead(), None, loss=F.cross_entropy, probes={"train": probe}
    ) as run:
        run.step()
    assert run.notes == [] and tracer.open(tmp_path / "run.zarr").sites == []
    assert verify(tmp_path / "run.zarr", replay=True).ok
