"""A run that diverged: where weights are NaN or infinite every metric is NaN, without an exception or a warning."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import analyze
import tracer
from tests import contract
from tests.loops import blobs, mlp

BROKEN = 4  # the snapshot with such weights, and the last one
OPTIONS = contract.QUICK | {"image_functions": {"history": "none"}}
# Defined whatever the weights are: they are facts of the inputs, the schedule or the comparison itself.
FACTS = {
    "regions": {"id_from", "id_to"},
    "minibatch_cna": {"loss"},  # of the update that broke the weights, taken before it
    "cna_landscape": {"explained"},
    "expected_sharpness": {"n_draws"},
}


NAN = pytest.param(float("nan"), id="nan", marks=pytest.mark.slow)  # infinite weights give NaN as well


@pytest.fixture(scope="module", params=[pytest.param(float("inf"), id="inf"), NAN])
def archive(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("broken") / "run.zarr"
    torch.manual_seed(0)
    model, (x, y) = mlp(), blobs(24)
    dataset = TensorDataset(x, y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    streams = {"activations": None, "gradients": 6}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the loss is NaN is said
        with tracer.record(
            path,
            model,
            optimizer,
            loss=F.cross_entropy,
            probes={
                "train": tracer.Probe(x[:12], y[:12], capture=streams),
                "test": tracer.Probe(*blobs(11, seed=7), capture=streams),
            },
            snapshots=tracer.every(1),
            gradients="exact",
            minibatch=True,
            data=dataset,
            data_inputs=True,
        ) as run:
            for inputs, targets in run.batches(DataLoader(dataset, batch_size=6)):
                loss = F.cross_entropy(model(inputs), targets)
                optimizer.zero_grad()
                loss.backward()
                if run._open().step == BROKEN - 1:
                    with torch.no_grad():
                        for weight in model.parameters():
                            weight.fill_(request.param)
                optimizer.step()
                run.log(loss=loss)
    return tracer.open(path)


def test_what_is_not_a_number_is_no_finite_result(archive):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        snapshots = [0, BROKEN - 1, BROKEN]  # at which the network is run again
        results = analyze.run(archive, options=OPTIONS, patience=math.inf, snapshots=snapshots)
    # They need two learning rates, and targets at every token, whatever the weights.
    others = ("path_overlap_ratio", "token_prediction")
    wrong = [f"{name}: {why}"[:300] for name, why in results.skipped.items() if name not in others]
    for name, result in results.items():
        for variable, values in result.data_vars.items():
            if "step" in values.dims and values.dtype.kind == "f" and variable not in FACTS.get(name, ()):
                last = values.sel(step=BROKEN).values
                if np.isfinite(last).any():
                    wrong.append(f"{name}.{variable}: {last[np.isfinite(last)][:5]}")
    assert not wrong, "\n".join(wrong)
