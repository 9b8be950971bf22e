"""What becomes of a case: recorded, its gradients against one example at a time, replayed, analyzed to a report."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import analyze
import tracer
from tests.zoo.case import TRAIN, Case, N, examples, one_loss
from tracer.network.objective import objective_of
from tracer.network.pytree import leaves_of, rebuild
from tracer.recorder import RecordWarning
from tracer.verify import verify

METRIC = "sam_sharpness"  # runs the network and its loss again, on any inputs
TOLERANCE = 1e-4
ROUNDING = 4  # times the error of autograd itself, where a network is ill-conditioned
Made = tuple[
    np.ndarray, dict[str, np.ndarray]
]  # losses (example,) and gradients (example, weight) by parameter


@dataclass(frozen=True)
class Verdict:
    """One line of the table."""

    network: str  # "table", "eager" or "refused"
    gradients: str  # "equal", "off", or which parameter differs
    replayed: str  # "yes", or why not
    metrics: int  # in the report
    notes: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Nothing wrong, and nothing missing without a word."""
        said = bool(self.notes)
        return (self.gradients == "equal" or (self.gradients in ("off", "") and said)) and (
            self.replayed == "yes" or said
        )


def train(case: Case, path: Path) -> list[str]:
    """Two recorded updates; the notes."""
    model = case.make()
    inputs, targets = case.batch()
    first, rest = range(TRAIN), range(TRAIN, N)
    probes = {
        name: tracer.Probe(examples(inputs, index), examples(targets, index), shared=case.shared)
        for name, index in (("train", first), ("test", rest))
    }
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    goal = objective_of(case.loss, case.objective)
    with tracer.record(
        path,
        model,
        optimizer,
        **case.goal,
        probes=probes,
        snapshots=tracer.every(1),
        gradients="exact",
    ) as run:
        for number in range(2):
            chosen = [(number + k) % TRAIN for k in range(3)]
            loss = goal(model, examples(inputs, chosen), examples(targets, chosen)).losses.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(ids=chosen, loss=loss)
            run.end_epoch()
    return list(run.notes)


def difference(case: Case, archive: Any, step: int = 2) -> str:
    """ "equal", or the first quantity that is not what autograd gives of each example alone."""
    model = case.make().eval()
    stored = {name: torch.from_numpy(value) for name, value in archive.weights(step).items()}
    missing, _ = model.load_state_dict(stored, strict=False)
    assert not set(missing) & set(dict(model.named_parameters())), missing  # where tied ones are named once
    card = archive.card["gradients"]
    gradients = card is not None and card["mode"] != "none"
    for probe, index in (("train", range(TRAIN)), ("test", range(TRAIN, N))):
        view = archive.probes[probe]
        autograd = Autograd(case, model, index, gradients=gradients)
        said = of_losses(view.losses(step).astype(float), autograd) or (
            gradients and of_gradients(partial(view.gradients, step=step), autograd)
        )
        if said:
            return said
    return "equal" if gradients else "off"


class Autograd:
    """What autograd gives of each example of a probe alone."""

    def __init__(self, case: Case, model: Any, index: Any, *, gradients: bool) -> None:
        self.case, self.model, self.index, self._wanted = case, model, list(index), gradients
        self.losses, self.gradients = self._alone(model)

    @cached_property
    def truth(self) -> Made:
        """The same in float64."""
        return self._alone(self._wide)

    @cached_property
    def rounding(self) -> Made:
        """How far float32 is from float64: of each example alone or in its probe, as it was recorded, the larger.

        A ReLU near its kink may be on in a batch and off alone: of either only float32 tells how far it is off.
        """
        here, there = self._together(self.model), self._together(self._wide)
        losses = np.maximum(np.abs(here[0] - there[0]), np.abs(self.losses - self.truth[0]))
        rows = {
            name: np.maximum(
                np.linalg.norm(here[1][name] - there[1][name], axis=1),
                np.linalg.norm(self.gradients[name] - self.truth[1][name], axis=1),
            )
            for name in self.gradients
        }
        return losses, rows

    @cached_property
    def _wide(self) -> Any:
        return copy.deepcopy(self.model).double()

    def _batch(self, model: Any) -> list[Any]:
        """Inputs and targets, as wide as the model."""
        given = self.case.batch()
        return (
            [*given]
            if model is self.model
            else [rebuild(tree, map(_wide, leaves_of(tree))) for tree in given]
        )

    def _alone(self, model: Any) -> Made:
        batch = self._batch(model)
        one = ([examples(tree, [i]) for tree in batch] for i in self.index)
        return self._made(model, [one_loss(self.case, model, *example) for example in one])

    def _together(self, model: Any) -> Made:
        batch = [examples(tree, self.index) for tree in self._batch(model)]
        goal = objective_of(self.case.loss, self.case.objective)
        return self._made(model, goal(model, *batch).losses)

    def _made(self, model: Any, losses: Any) -> Made:
        names = {name: p for name, p in model.named_parameters() if p.requires_grad}
        rows = []
        for loss in losses if self._wanted else ():
            of = torch.autograd.grad(
                loss, list(names.values()), allow_unused=True, materialize_grads=True, retain_graph=True
            )
            rows.append([gradient.double().numpy().ravel() for gradient in of])
        gradients = {name: np.array(made) for name, made in zip(names, zip(*rows, strict=True), strict=False)}
        return np.array([loss.item() for loss in losses]), gradients


def _wide(leaf: Any) -> Any:
    return leaf.double() if leaf.is_floating_point() else leaf


def of_losses(got: np.ndarray, autograd: Autograd) -> str:
    """What is wrong with the losses of a probe; nothing where they are as near to float64 as autograd's own."""
    for i in np.flatnonzero(~np.isclose(got, autograd.losses, rtol=TOLERANCE, atol=1e-6)):
        truth = autograd.truth[0][i]
        if not abs(got[i] - truth) <= ROUNDING * autograd.rounding[0][i]:
            return f"loss of example {i}: {got[i]}, expected {autograd.losses[i]}, in float64 {truth}"
    return ""


def of_gradients(read: Callable[[str], np.ndarray], autograd: Autograd) -> str:
    """What is wrong with the gradients of a probe, by the same measure."""
    rows = autograd.gradients
    largest = max((np.linalg.norm(one, axis=1).max() for one in rows.values()), default=0.0)
    for name, expected in rows.items():
        got = read(name).astype(float).reshape(expected.shape)
        off, size = np.linalg.norm(got - expected, axis=1), np.linalg.norm(expected, axis=1)
        for i in np.flatnonzero(~(off <= TOLERANCE * size + 1e-6 * largest)):
            error = np.linalg.norm(got[i] - autograd.truth[1][name][i])
            if not error <= ROUNDING * autograd.rounding[1][name][i]:
                return f"gradient of {name}: off by {off[i]:.3g} of {size[i]:.3g}"
    return ""


def judge(case: Case, folder: Path, *, metrics: bool = True, report: bool = True) -> Verdict:
    """Record, compare, replay and analyze a case, with a report; anything but a refusal in one sentence is raised."""
    path = folder / "run.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordWarning)
        try:
            notes = train(case, path)
        except tracer.RecordError as error:
            return Verdict("refused", "", "", 0, (str(error),))
    with tracer.open(path) as archive:
        network = archive.card["network"]
        gradients = difference(case, archive) if archive.probes else "off"
    replayed, computed = "", 0
    if network == "table":
        checked = verify(path, full=True, replay=True)
        replayed = "yes" if checked.ok else "; ".join(map(str, checked.findings))
    try:
        value = analyze.run(path, metrics=[METRIC])[METRIC]
        assert any(variable.notnull().any() for variable in value.data_vars.values()), "all NaN"
    except (tracer.TracerError, analyze.AnalysisError) as error:
        replayed = str(error)
    if metrics or report:
        results = analyze.run(path, patience=2)
        computed = len(results)
        if report:
            results.save(folder / "run.analysis")
            assert (folder / "run.analysis" / "report.html").is_file()
    return Verdict(network, gradients, replayed, computed, tuple(notes))
