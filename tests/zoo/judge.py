"""What becomes of a case: recorded, its gradients against one example at a time, replayed, analyzed to a report."""

import copy
import warnings
from dataclasses import dataclass
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
    inputs, targets = case.batch()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = archive.card["gradients"] is not None and archive.card["gradients"]["mode"] != "none"
    for probe, start, count in (("train", 0, TRAIN), ("test", TRAIN, N - TRAIN)):
        view = archive.probes[probe]
        largest = 0.0
        pairs = []
        for i in range(count):
            loss = one_loss(case, model, examples(inputs, [start + i]), examples(targets, [start + i]))
            if not np.isclose(loss.item(), float(view.losses(step)[i]), rtol=1e-4, atol=1e-6):
                return f"loss of example {i}: {view.losses(step)[i]}, expected {loss.item()}"
            if not gradients:
                continue
            wanted = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
            for name, gradient in zip(trainable, wanted, strict=True):
                expected = (
                    np.zeros(trainable[name].numel())
                    if gradient is None
                    else gradient.double().numpy().ravel()
                )
                got = view.gradients(name, step)[i].astype(float).ravel()
                largest = max(largest, float(np.linalg.norm(expected)))
                pairs.append((i, name, got, expected))
        exact: dict[int, dict[str, Any]] | None = None
        for i, name, got, expected in pairs:
            off, size = np.linalg.norm(got - expected), np.linalg.norm(expected)
            if off > TOLERANCE * size + 1e-6 * largest:
                if exact is None:
                    exact = in_double(case, model, inputs, targets, range(start, start + count))
                truth = exact[i][name]
                if np.linalg.norm(got - truth) > ROUNDING * np.linalg.norm(expected - truth):
                    return f"gradient of {name}: off by {off:.3g} of {size:.3g}"
    return "equal" if gradients else "off"


def in_double(case: Case, model: Any, inputs: Any, targets: Any, index: Any) -> dict[int, dict[str, Any]]:
    """Gradients of each example alone in float64, by example and parameter."""
    wide = copy.deepcopy(model).double()

    def widen(tree: Any) -> Any:
        leaves = (leaf.double() if leaf.is_floating_point() else leaf for leaf in leaves_of(tree))
        return rebuild(tree, leaves)

    names = {name: p for name, p in wide.named_parameters() if p.requires_grad}
    made = {}
    for place, i in enumerate(index):
        loss = one_loss(case, wide, widen(examples(inputs, [i])), widen(examples(targets, [i])))
        gradients = torch.autograd.grad(loss, list(names.values()), allow_unused=True, materialize_grads=True)
        made[place] = {name: g.numpy().ravel() for name, g in zip(names, gradients, strict=True)}
    return made


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
