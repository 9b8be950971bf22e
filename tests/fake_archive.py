"""An archive in memory with random masks and Grams: two masked sites, one without mask, any probes."""

from types import SimpleNamespace

import numpy as np

from analyze.arrays import derived, recorded  # noqa: F401  (importing them declares the arrays they make)
from tracer import bits

SITES = {"relu": 11, "tanh": 4, "relu#2": 6}


class FakeProbe(SimpleNamespace):
    has_top = has_sketches = False

    def steps(self, stream):
        return self.recorded

    def bits(self, step):
        return np.concatenate([bits.pack(self.masks[site, step]) for site in SITES if site != "tanh"])

    def outputs(self, step):
        return self.scores[step]

    def losses(self, step):
        return self.loss[step]


def fake_archive(steps=(0, 1, 2, 3), sizes=None, ends=(2,), seed=0):
    """Archive-like object: `probes[p].masks[site, step]` is the truth about its bits."""
    rng = np.random.default_rng(seed)
    sizes = sizes or {"test": 5, "train": 11}
    probes, start, table = {}, 0, []
    for name, n_units in SITES.items():
        table.append({"name": name, "n_units": n_units, "start": None if name == "tanh" else start})
        start += 0 if name == "tanh" else n_units
    for name, n in sizes.items():
        masks = {(site, step): rng.random((n, SITES[site])) < 0.6 for site in SITES for step in steps}
        probes[name] = FakeProbe(
            name=name,
            split=name,
            n=n,
            n_masks=n,
            ids=np.arange(n),
            capture={},
            targets=np.arange(n) % 3,
            inputs=rng.normal(size=(n, 2)),
            raw=None,
            true_targets=None,
            group=None,
            recorded=np.array(steps),
            masks=masks,
            scores={step: rng.normal(size=(n, 3)) for step in steps},
            loss={step: rng.random(n) for step in steps},
        )
    total = sum(sizes.values())
    gradients = {step: rng.normal(size=(2, total, 7)) for step in steps}
    return SimpleNamespace(
        probes=probes,
        site_table=table,
        sites=list(SITES),
        calls=["fc1"],
        layers=["fc1", "fc2"],
        epoch_ends=np.array(ends),
        snapshots=np.array(steps),
        steps=lambda stream: np.array(steps),
        epoch_of=lambda step: step // 2,
        gram_probes=list(sizes.items()),
        gram=lambda step: gradients[step] @ gradients[step].swapaxes(1, 2),
        digest="d",
        run_id="r",
        state="complete",
        path="fake",
        card={},
    )
