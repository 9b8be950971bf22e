"""What is correct follows the loss: found at recording, asked by every metric."""

import copy
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import analyze
import tracer
from analyze.arrays.classes import class_labels, class_margins, class_scores, correct_share
from tests import contract
from tracer.errors import MissingTraceError, RecordError
from tracer.network.loss_kind import correctness_of
from tracer.network.objective import scored
from tracer.spec.correctness import Correctness

LABELS = torch.tensor([2, 0, 1, 1, 0, 2])
BITS = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])
TOKENS = torch.tensor([[1, 2, 0, 3], [3, 0, 0, 2], [2, 2, 1, 0]])
PIXELS = torch.where(TOKENS == 0, 255, TOKENS)


def shifted(outputs: Tensor, targets: Tensor) -> Tensor:
    losses = F.cross_entropy(outputs[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), reduction="none")
    return losses.reshape(len(targets), -1).mean(1)


def by_hand_without_zeros(outputs: Tensor, targets: Tensor) -> Tensor:
    losses = F.cross_entropy(outputs.transpose(1, 2), targets, reduction="none")
    return (losses * (targets != 0)).sum(1) / (targets != 0).sum(1)


def of_log_softmax(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.nll_loss(F.log_softmax(outputs / 3, 1), targets, reduction="none")


def focal(outputs: Tensor, targets: Tensor) -> Tensor:
    losses = F.cross_entropy(outputs, targets, reduction="none")
    return (1 - torch.exp(-losses)) ** 2 * losses


def of_its_own(outputs: Tensor, targets: Tensor) -> Tensor:
    return -outputs.log_softmax(1)[torch.arange(len(targets)), targets]


CASES = {
    "cross entropy": (F.cross_entropy, (6, 3), LABELS, Correctness("class", 1, -100)),
    "smoothed": (nn.CrossEntropyLoss(label_smoothing=0.2), (6, 3), LABELS, Correctness("class", 1, -100)),
    "weighted": (
        nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 5.0])),
        (6, 3),
        LABELS,
        Correctness("class", 1, -100),
    ),
    "a weight of 0": (
        nn.CrossEntropyLoss(torch.tensor([0.0, 2.0, 5.0])),
        (6, 3),
        LABELS,
        Correctness("class", 1, 0),
    ),
    "ignored": (nn.CrossEntropyLoss(ignore_index=0), (6, 3), LABELS, Correctness("class", 1, 0)),
    "pixels": (partial(F.cross_entropy, ignore_index=255), (3, 4, 4), PIXELS, Correctness("class", 1, 255)),
    "probabilities": (F.cross_entropy, (6, 3), F.one_hot(LABELS, 3).float(), Correctness("class")),
    "nll": (of_log_softmax, (6, 3), LABELS, Correctness("class", 1, -100)),
    "focal": (focal, (6, 3), LABELS, Correctness("class", 1, -100)),
    "its own": (of_its_own, (6, 3), LABELS, Correctness("class")),
    "hinge": (nn.MultiMarginLoss(), (6, 3), LABELS, Correctness("class")),
    "shifted": (shifted, (3, 4, 5), TOKENS, Correctness("class", 2, -100, shift=1)),
    "left out by hand": (by_hand_without_zeros, (3, 4, 5), TOKENS, Correctness("class", 2, 0)),
    "one logit": (nn.BCEWithLogitsLoss(), (6, 1), BITS[:, None], Correctness("binary")),
    "one logit, flat": (F.binary_cross_entropy_with_logits, (6,), BITS, Correctness("binary")),
    "one probability": (nn.BCELoss(), (6, 1), BITS[:, None], Correctness("binary", probabilities=True)),
    "several labels": (nn.BCEWithLogitsLoss(), (2, 3), BITS.reshape(2, 3), Correctness("binary")),
    "signs": (nn.SoftMarginLoss(), (6, 1), 2 * BITS[:, None] - 1, Correctness("binary", signed=True)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_loss_calls_correct_is_found(name: str) -> None:
    loss, shape, targets, expected = CASES[name]
    assert correctness_of(loss, torch.randn(shape), targets) == expected
    assert Correctness.from_card({"correctness": expected.to_card()}) == expected


REFUSED = {
    "a regression": (F.mse_loss, (6, 3), torch.randn(6, 3), "compares numbers"),
    "a part of the outputs": (
        lambda o, t: F.cross_entropy(o[:, :3], t, reduction="none"),
        (6, 5),
        LABELS,
        "not the outputs",
    ),
    "own, one score": (lambda o, t: (o[:, 0] - t).abs(), (6, 1), BITS, "loss of your own"),
    "several targets": (F.cross_entropy, (6, 3), (LABELS, LABELS), "not one tensor"),
    "left out at random": (
        lambda o, t: focal(o, t) * (torch.arange(6) % 2),
        (6, 3),
        LABELS,
        "targets do not show",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused_in_a_sentence(name: str) -> None:
    loss, shape, targets, sentence = REFUSED[name]
    rule = correctness_of(loss, torch.randn(shape), targets)
    assert rule.kind == "none" and sentence in rule.reason
    with pytest.raises(MissingTraceError, match=sentence):
        correct_share(np.zeros((1, *shape)), np.zeros(shape[0], int), rule)


def test_the_random_stream_and_the_loss_are_left_alone() -> None:
    torch.manual_seed(0)
    before, loss = torch.get_rng_state(), nn.CrossEntropyLoss()
    correctness_of(loss, torch.empty(6, 3), LABELS)
    assert torch.equal(before, torch.get_rng_state()) and loss.reduction == "mean"


def test_hand_values() -> None:
    tokens = np.zeros((1, 1, 4, 3))
    tokens[0, 0, [0, 1, 2], [1, 2, 0]] = 5  # says 1, 2, 0 of the next tokens
    rule = Correctness("class", 2, -100, shift=1)
    assert correct_share(tokens, np.array([[0, 1, 2, 2]]), rule).tolist() == [[2 / 3]]
    assert correct_share(tokens, np.array([[0, 1, -100, 2]]), rule).tolist() == [[0.5]]
    assert np.isnan(correct_share(tokens, np.array([[0, -100, -100, -100]]), rule)).all()
    logits, probabilities = np.array([[[-1.0], [0.3]]]), np.array([[[0.3], [0.6]]])
    yes = np.array([[0.0], [0.0]])
    assert correct_share(logits, yes, Correctness("binary")).tolist() == [[1, 0]]
    assert correct_share(probabilities, yes, Correctness("binary", probabilities=True)).tolist() == [[1, 0]]
    several = correct_share(
        np.array([[[-1.0, 2.0, 3.0]]]), np.array([[0.0, 1.0, 0.0]]), Correctness("binary")
    )
    assert several.tolist() == [[2 / 3]]
    ignored = Correctness("class", 1, 1)
    labels = class_labels(np.array([0, 1]), ignored)
    assert labels.tolist() == [0, -100]
    np.testing.assert_array_equal(class_margins(np.zeros((1, 2, 3)), labels), [[0, np.nan]])
    odds = class_scores(np.array([[[0.75]]]), np.array([1.0]), Correctness("binary", probabilities=True))
    np.testing.assert_allclose(odds, [[[0, np.log(3)]]])
    for stored in ({"kind": "all"}, {"kind": "class", "axis": 0}, {"kind": "class", "shift": True}, [1]):
        with pytest.raises(MissingTraceError, match="card's record"):
            Correctness.from_card({"correctness": stored})


class Named(NamedTuple):
    outputs: Tensor
    losses: Tensor
    targets: Tensor


def test_what_an_objective_may_return() -> None:
    outputs, losses = torch.tensor([[2.0, 1.0], [0.0, float("nan")]]), torch.zeros(2)
    assert scored((outputs, losses)).correct is None
    said = scored(
        {"outputs": outputs, "losses": losses, "correct": torch.tensor([[True, False], [True, True]])}
    )
    assert said.correct is not None and said.correct.tolist() == [0.5, 1.0]
    aligned = scored(Named(outputs, losses, torch.tensor([0, 0]))).correct
    assert aligned is not None and aligned[0] == 1 and aligned[1].isnan()
    for wrong, sentence in [
        ((outputs, losses, losses), "returns 3 values"),
        ({"outputs": outputs}, "without 'losses'"),
        ({"outputs": outputs, "losses": losses, "correct": True}, "correct is a bool"),
        (Named(outputs, losses, torch.zeros(2, 5)), "not aligned"),
    ]:
        with pytest.raises(RecordError, match=sentence):
            scored(wrong)


def record(path: Any, model: nn.Module, probe: Any, **options: Any) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    with tracer.record(path, model, optimizer, probes={"train": probe}, snapshots=tracer.every(1), **options):
        model(probe[0]).square().mean().backward()
        optimizer.step()
    return tracer.open(path)


def shifting(extra: str, model: nn.Module, inputs: Tensor, targets: Tensor) -> Any:
    logits = model(inputs)[:, :-1]
    aligned = targets[:, 1:]
    losses = F.cross_entropy(logits.flatten(0, 1), aligned.flatten(), reduction="none").reshape(
        len(aligned), -1
    )
    returned = {"outputs": logits, "losses": losses.mean(1)}
    more = {"targets": aligned, "correct": (logits.argmax(-1) == aligned).float().mean(1)}
    return returned | ({extra: more[extra]} if extra else {})


FEW = {"pac_bayes": contract.QUICK["pac_bayes"]}


@pytest.mark.parametrize("extra", ["targets", pytest.param("correct", marks=pytest.mark.slow)])
def test_an_objective_that_says_so_is_believed(tmp_path: Any, extra: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 4), nn.ReLU(), nn.Linear(4, 5))
    archive = record(tmp_path / "a.zarr", model, (TOKENS, TOKENS), objective=partial(shifting, extra))
    error = analyze.run(archive, ["generalization"])["generalization"]["error"].values[-1, 0]
    wrong = (model(TOKENS)[:, :-1].argmax(-1) != TOKENS[:, 1:]).float().mean().item()
    assert error == pytest.approx(wrong)
    state = analyze.run(archive, ["pac_bayes"], options=FEW)[
        "pac_bayes"
    ]  # the table says so, with weights moved
    assert state["accuracy"].values[-1] == pytest.approx(1 - wrong)
    why = {"targets": "several answers.* targets of one answer", "correct": "not of which class"}[extra]
    with pytest.raises(MissingTraceError, match=why):
        analyze.run(archive, ["margin"])


def test_an_objective_with_plain_classes_has_margins(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3)), torch.randn(6, 4)

    def named(model: nn.Module, inputs: Tensor, targets: Tensor) -> Named:
        outputs = model(inputs)
        return Named(outputs, F.cross_entropy(outputs, targets, reduction="none"), targets)

    stated = record(tmp_path / "a.zarr", copy.deepcopy(model), (inputs, LABELS), objective=named)
    plain = record(tmp_path / "b.zarr", copy.deepcopy(model), (inputs, LABELS), loss=F.cross_entropy)
    for metric, variable in (("margin", "gamma"), ("el2n", "score"), ("generalization", "error")):
        first, second = (analyze.run(archive, [metric])[metric][variable] for archive in (stated, plain))
        np.testing.assert_array_equal(first, second)


def test_an_objective_that_does_not_say_so_is_not_guessed(tmp_path: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3))
    inputs = torch.randn(6, 4)

    def silent(model: nn.Module, inputs: Tensor, targets: Tensor) -> Any:
        outputs = model(inputs)
        return outputs, F.cross_entropy(outputs, targets, reduction="none")

    archive = record(tmp_path / "a.zarr", model, (inputs, LABELS), objective=silent)
    results = analyze.run(archive, ["generalization"])["generalization"]
    assert results["error"].isnull().all() and results["loss"].notnull().all()
    for metric in ("forgetting", "margin", "el2n", "error_by_complexity", "layer_margin"):
        with pytest.raises(MissingTraceError, match=r"does not say which examples are correct: return|needs"):
            analyze.run(archive, [metric])


def test_every_metric_follows_one_probability(tmp_path: Any) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1), nn.Sigmoid())
    inputs = torch.randn(6, 4)
    archive = record(tmp_path / "a.zarr", model, (inputs, BITS[:, None]), loss=F.binary_cross_entropy)
    found = analyze.run(archive, ["generalization", "margin", "el2n", "layer_margin"])
    with torch.no_grad():
        p = model(inputs)[:, 0].double()
    truth = BITS.double()
    assert found["generalization"]["error"].values[-1, 0] == ((p > 0.5) != (truth > 0.5)).double().mean()
    margins = (2 * truth - 1) * torch.logit(p)
    assert found["margin"]["gamma"].values[-1, 0] == pytest.approx(margins.min().item(), rel=1e-5)
    np.testing.assert_allclose(found["el2n"]["score"].values[-1], 2**0.5 * (p - truth).abs(), rtol=1e-5)


def test_a_loss_is_not_given_several_outputs(tmp_path: Any) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.fc(x), "hidden": x}

    with pytest.raises(
        RecordError, match=r"returns a dict, and loss= takes models that return one tensor.*objective="
    ):
        record(tmp_path / "a.zarr", Two(), (torch.randn(6, 4), LABELS), loss=F.cross_entropy)
