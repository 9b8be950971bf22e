"""What becomes of a case: recorded, its gradients against one example at a time, replayed, analyzed to a report."""

import copy
import warnings
from dataclasses import dataclass
from functools import cached_property
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
        alone = Alone(case, model, index, gradients=gradients)
        said = of_losses(view.losses(step).astype(float), alone) or (
            gradients and of_gradients(lambda name: view.gradients(name, step), alone)
        )
        if said:
            return said
    return "equal" if gradients else "off"


class Alone:
    """Losses and gradients of each example alone as autograd gives them, in float32 and, once asked for, in float64."""

    def __init__(self, case: Case, model: Any, index: Any, *, gradients: bool) -> None:
        self.case, self.model, self.index, self.wanted = case, model, index, gradients
        self.losses, self.gradients = self._made(model, lambda leaf: leaf)

    @cached_property
    def truth(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The same in float64."""
        wide = copy.deepcopy(self.model).double()
        return self._made(wide, lambda leaf: leaf.double() if leaf.is_floating_point() else leaf)

    def _made(self, model: Any, as_wanted: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        inputs, targets = (
            rebuild(tree, (as_wanted(leaf) for leaf in leaves_of(tree))) for tree in self.case.batch()
        )
        names = {name: p for name, p in model.named_parameters() if p.requires_grad}
        losses, rows = [], []
        for i in self.index:
            loss = one_loss(self.case, model, examples(inputs, [i]), examples(targets, [i]))
            losses.append(loss.item())
            if self.wanted:
                of = torch.autograd.grad(loss, list(names.values()), allow_unused=True, materialize_grads=True)
                rows.append([g.double().numpy().ravel() for g in of])
        return np.array(losses), {
            name: np.array(made) for name, made in zip(names, zip(*rows, strict=True), strict=False)
        }


def of_losses(got: np.ndarray, alone: Alone) -> str:
    """What is wrong with the losses of a probe; nothing where they are as near to float64 as autograd's own."""
    expected = alone.losses
    near = np.isclose(got, expected, rtol=TOLERANCE, atol=1e-6)
    if near.all():
        return ""
    # One loss may be right by luck, not those of all examples: the largest error of them is the measure.
    truth, _ = alone.truth
    if np.abs(got - truth).max() <= ROUNDING * np.abs(expected - truth).max():
        return ""
    i = int(np.flatnonzero(~near)[0])
    return f"loss of example {i}: {got[i]}, expected {expected[i]}, in float64 {truth[i]}"


def of_gradients(read: Any, alone: Alone) -> str:
    """What is wrong with the gradients of a probe, by the same measure."""
    largest = max((np.linalg.norm(rows, axis=1).max() for rows in alone.gradients.values()), default=0.0)
    for name, rows in alone.gradients.items():
        for i, (got, expected) in enumerate(zip(read(name).astype(float), rows, strict=True)):
            off, size = np.linalg.norm(got.ravel() - expected), np.linalg.norm(expected)
            if off <= TOLERANCE * size + 1e-6 * largest:
                continue
            truth = alone.truth[1][name][i]
            if np.linalg.norm(got.ravel() - truth) > ROUNDING * np.linalg.norm(expected - truth):
                return f"gradient of {name}: off by {off:.3g} of {size:.3g}"
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
