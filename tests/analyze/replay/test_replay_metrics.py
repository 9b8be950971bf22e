"""What metrics that run a network again, layer by layer, have to keep: on a recorded convolutional network."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import analyze
import tracer
from analyze.results import Results
from tests import contract, replayed

# Those that look into the network: of the others, for which it is one function, tests/analyze/engine asks the same.
NAMES = ("image_functions", "cna_landscape", "jacobian", "regions", "layer_margin")
QUICK = {name: options for name, options in contract.QUICK.items() if name in NAMES}
CARDS = {name: card for name, card in analyze.available_metrics().items() if name in NAMES}


def convolutional():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 2, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
    ]
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    model, given = convolutional(), replayed.examples(14, (1, 6, 6), dtype=torch.float32)
    path = tmp_path_factory.mktemp("replay") / "run.zarr"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    probes = {
        "train": (given.inputs[:10], given.targets[:10]),
        "test": (given.inputs[10:], given.targets[10:]),
    }
    with tracer.record(
        path,
        model,
        optimizer,
        loss=F.cross_entropy,
        probes=probes,
        snapshots=tracer.every(2) | tracer.epochs(),
    ) as run:
        for _ in range(2):
            for batch in (slice(0, 4), slice(4, 8), slice(8, 10)):
                loss = F.cross_entropy(model(given.inputs[batch]), given.targets[batch])
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                run.step(ids=range(batch.start, batch.stop), loss=loss)
            run.end_epoch()
    return tracer.open(path)


@pytest.fixture(scope="module")
def results(archive):
    return analyze.run(archive, NAMES, options=QUICK)


@pytest.fixture(params=NAMES)
def card(request):
    return CARDS[request.param]


def test_result_is_what_the_card_announces(card, results):
    contract.check_result(card, results[card.name])


def test_one_snapshot_at_a_time_equals_all_at_once(card, archive, results, monkeypatch):
    monkeypatch.setattr(contract, "_results", {})
    contract.check_blocks(card, archive, contract.returned_by(card, archive))


def test_splits_and_layers_are_named(results):
    assert results["jacobian"]["probe"].values.tolist() == ["train", "test"]
    assert results["layer_margin"]["place"].values.tolist() == ["input", "1", "4"]
    error = results["image_functions"]["reconstruction_error"]
    assert error["layer"].values.tolist() == ["0", "3", "5", "all"]
    assert float(error.max()) < 1e-4 and results["image_functions"].attrs["history"] == "made again"
    assert results["cna_landscape"].attrs["metric"] == "cna_landscape"


@pytest.mark.usefixtures("undrawn")
def test_saved_results_read_back(results, tmp_path):
    names = ("image_functions", "jacobian", "layer_margin")  # with most dimensions
    Results({name: results[name] for name in names}, archive=results.archive).save(tmp_path / "out")
    again = analyze.load(tmp_path / "out")
    for name in names:
        for variable in results[name].data_vars:
            np.testing.assert_array_equal(again[name][variable], results[name][variable])
