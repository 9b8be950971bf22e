"""Answers at every token, and over many classes, against PyTorch on the same model."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import analyze
import tracer
from analyze.arrays.classes import class_margins
from analyze.metrics.outcome.margin import margin
from tracer.errors import MissingTraceError
from tracer.probe.answers import TOP, WHOLE, largest, log_sum_exp
from tracer.rerun.stored import Networks
from tracer.verify import verify

N, LENGTH = 4, 5


class Text(nn.Module):
    """Scores of the next token at every token, each from that token and its place alone."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.tokens, self.hidden, self.head = nn.Embedding(classes, 6), nn.Linear(6, 6), nn.Linear(6, classes)
        self.places = nn.Parameter(torch.randn(LENGTH, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(self.tokens(x) + self.places)))


def along(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.transpose(1, 2), targets, reduction="none").mean(1)


def shifted(outputs: Tensor, targets: Tensor) -> Tensor:
    losses = F.cross_entropy(outputs[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), reduction="none")
    return losses.reshape(targets.shape[0], -1).sum(1)


def causal(model: nn.Module, inputs: Tensor, targets: Tensor) -> Any:
    outputs, aligned = model(inputs)[:, :-1], targets[:, 1:]
    losses = F.cross_entropy(outputs.transpose(1, 2), aligned, reduction="none")
    return {"outputs": outputs, "losses": losses.sum(1) / (aligned != -100).sum(1), "targets": aligned}


def chosen(model: nn.Module, inputs: Tensor, targets: Tensor) -> Any:
    outputs, last = model(inputs)[:, -1], targets[:, -1]
    return {"outputs": outputs, "losses": F.cross_entropy(outputs, last, reduction="none"), "targets": last}


def record(path: Any, model: nn.Module, x: Tensor, y: Tensor, **goal: Any) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    probe = tracer.Probe(x, y, capture={"gradients": 2, "masks": 3})
    with tracer.record(path, model, optimizer, probes={"train": probe}, **goal):
        model(x).square().mean().backward()
        optimizer.step()
    return tracer.open(path)


def texts(classes: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    return Text(classes), torch.randint(0, classes, (N, LENGTH)), torch.randint(0, classes, (N, LENGTH))


@pytest.mark.parametrize(
    ("goal", "cut", "first"),
    [({"loss": along}, 0, 0), ({"loss": shifted}, 1, 1), ({"objective": causal}, 1, 1)],
)
def test_each_token_is_what_torch_says_of_it(tmp_path: Any, goal: Any, cut: int, first: int) -> None:
    model, x, y = texts(7)
    if "objective" in goal:
        y[0, 2:4] = -100
    before = copy.deepcopy(model)
    archive = record(tmp_path / "a.zarr", model, x, y, **goal)
    probe = archive.probes["train"]
    with torch.no_grad():
        scores, true = before(x)[:, : LENGTH - cut].double(), y[:, first:]
    counts = true != -100
    expected = (
        scores.log_softmax(-1).gather(-1, true.clamp(min=0)[..., None])[..., 0].where(counts, torch.nan)
    )
    tokens = probe.tokens(0)
    np.testing.assert_allclose(tokens["log_prob"], expected, rtol=1e-5)
    np.testing.assert_allclose(tokens["loss"], -expected, rtol=1e-5)
    right = (scores.argmax(-1) == true).double().where(counts, torch.nan)
    np.testing.assert_array_equal(tokens["correct"], right)
    assert archive._source.group_attributes("probes/train/tokens")["first"] == first
    if "objective" in goal:  # what asks for its targets' correctness leaves the number of examples open
        assert Networks(archive).at(0).batch is None
    assert archive.card["probes"]["train"]["capture"]["tokens"] is None
    found = analyze.run(archive, ["token_prediction", "generalization"])
    loss = found["token_prediction"]["loss"].sel(step=0, probe="train")
    assert loss == pytest.approx(-expected.nanmean().item(), rel=1e-6)
    error = found["generalization"]["error"].sel(step=0, probe="train")
    assert error == pytest.approx(1 - right.nanmean(1).mean().item())
    report = verify(tmp_path / "a.zarr", replay=True)
    assert report.ok and report.counts["replayed"] == 2


def test_models_without_tokens_have_no_word_of_them(tmp_path: Any) -> None:
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    archive = record(tmp_path / "a.zarr", model, x, y, loss=F.cross_entropy)
    assert "tokens" not in archive.card["probes"]["train"]["capture"]
    assert "tokens" not in archive.card["snapshots"] and "sums" in archive.card["snapshots"]
    with pytest.raises(MissingTraceError, match="one class number for each token"):
        archive.probes["train"].tokens(0)


def test_many_classes_are_recorded_as_the_largest_scores(tmp_path: Any) -> None:
    model, x, y = texts(WHOLE + 1)
    before = copy.deepcopy(model)
    archive = record(tmp_path / "a.zarr", model, x, y, loss=along)
    probe = archive.probes["train"]
    with torch.no_grad():
        scores = before(x)
    top, expected = probe.top(0), scores.topk(TOP, -1)
    np.testing.assert_array_equal(top.top_score, expected.values)
    np.testing.assert_array_equal(top.top_class, expected.indices)
    wide = scores.double()
    np.testing.assert_allclose(top.log_sum_exp, wide.logsumexp(-1), rtol=1e-6)
    entropy = torch.distributions.Categorical(logits=wide).entropy()
    np.testing.assert_allclose(top.entropy, entropy, rtol=1e-6)
    with pytest.raises(MissingTraceError, match=r"4,097 outputs of each answer .* 32 largest"):
        probe.outputs(0)
    found = analyze.run(archive, ["generalization"])["generalization"]["error"].sel(step=0, probe="train")
    assert found == pytest.approx((scores.argmax(-1) != y).double().mean().item())
    report = verify(tmp_path / "a.zarr", replay=True)
    assert report.ok and report.counts["replayed"] == 2
    with pytest.raises(MissingTraceError, match="targets of one answer of each example"):
        analyze.run(archive, ["class_stiffness"])


def test_metrics_of_one_class_an_example_work_on_a_chosen_token(tmp_path: Any) -> None:
    model, x, y = texts(WHOLE + 1)
    with torch.no_grad():
        scores = model(x)[:, -1].double().numpy()
    archive = record(tmp_path / "a.zarr", model, x, y, objective=chosen)
    found = analyze.run(archive, ["margin", "training_measures", "class_stiffness", "generalization"])
    margins = class_margins(scores[None], y[:, -1].numpy())[0]
    assert found["margin"]["gamma"].sel(step=0, probe="train") == pytest.approx(
        margin(margins[None])["gamma"][0], rel=1e-5
    )
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    entropy = -(shares * np.log(shares)).sum(1).mean()
    assert found["training_measures"]["output_entropy"].sel(step=0) == pytest.approx(entropy, rel=1e-6)
    assert "tokens" not in archive.card["probes"]["train"]["capture"]
    with pytest.raises(MissingTraceError, match="32 largest"):
        analyze.run(archive, ["el2n"])


def test_of_equal_scores_the_first_is_first_and_undefined_ones_stay_so() -> None:
    scores = torch.zeros(3, 50)
    scores[1, 40], scores[2, 3] = torch.nan, torch.inf
    values, classes = largest(scores, 4)
    assert classes[0, 0] == 0 and classes[2, 0] == 3 and values[1, 0].isnan()
    total, entropy = log_sum_exp(scores)
    np.testing.assert_allclose(total[0], np.log(50))
    np.testing.assert_allclose(entropy[0], np.log(50))
    assert total[1].isnan() and entropy[1].isnan() and entropy[2].isnan()
