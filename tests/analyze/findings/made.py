"""Results of made-up runs whose truth is known: arrays through the metrics themselves, without an archive."""

import numpy as np
import xarray as xr

from analyze.arrays.derived import cosines
from analyze.metrics.gradients.class_stiffness import class_stiffness
from analyze.metrics.gradients.stiffness import stiffness
from analyze.metrics.outcome.generalization import generalization

STEPS = np.array([0, 50, 100])
CLASSES = 5


def dataset(function, returned, **coords):
    """What a metric returned, as the engine labels it."""
    variables = {name: (dims, returned[name]) for name, dims in function.card.variables.items()}
    named = {
        dim: returned[dim] for dims in function.card.variables.values() for dim in dims if dim in returned
    }
    named |= {
        name: values
        for name, values in coords.items()
        if any(name in d for d in function.card.variables.values())
    }
    return xr.Dataset(variables, {**named, "step": STEPS})


def outcome(train, test, correct=None, labels=None):
    """`generalization` of losses (step, example) of two probes, `correct` alike, and of `labels` (example,)."""
    losses = np.concatenate([train, test], 1) if test is not None else train
    probe = np.array(["train"] * train.shape[1] + ["test"] * (0 if test is None else test.shape[1]))
    return dataset(generalization, generalization(losses, probe, probe, correct=correct, labels=labels))


def classified(rng, train_error, test_error, n_train=500, n_test=500):
    """A classifier with these errors at the end, which guesses at the start."""
    wrong = [
        np.concatenate([rng.random((1, n)) < 0.8, rng.random((1, n)) < 0.8, rng.random((1, n)) < error])
        for n, error in ((n_train, train_error), (n_test, test_error))
    ]
    losses = [2 * one + 0.1 * rng.random(one.shape) for one in wrong]
    labels = np.arange(n_train + n_test) % CLASSES
    return {"generalization": outcome(*losses, 1.0 - np.concatenate(wrong, 1), labels)}


def gradients(vectors, labels=None, test=None, start=None):
    """`stiffness`, and with labels `class_stiffness`, of gradients (example, weight), at the last two steps.

    Those of the first step, `start`, have nothing in common unless given.
    """
    every = vectors if test is None else np.concatenate([vectors, test])
    split = np.array(["train"] * len(vectors) + ["test"] * (len(every) - len(vectors)))
    first = np.eye(len(every)) if start is None else start @ start.T
    gram = np.stack([first, every @ every.T, every @ every.T])[:, None]
    ids, layer = np.arange(len(every)), {"layer": ["all"]}
    made = {"stiffness": dataset(stiffness, stiffness(gram, cosines(gram), split, ids), **layer)}
    if labels is not None:
        own = gram[..., : len(vectors), : len(vectors)]
        cells = class_stiffness(own, cosines(own), labels, ids[: len(vectors)])
        made["class_stiffness"] = dataset(class_stiffness, cells, **layer)
    return made


def of_classes(rng, labels, centres, noise=0.5):
    """Gradients (example, weight) around the centre of each class."""
    return centres[labels] + noise * rng.normal(size=(len(labels), centres.shape[1]))
