"""Read an archive with zarr and NumPy alone: ids, weights, paths, Grams, and a gradient from its factors.

    python examples/read_without_tracer.py run.zarr

Works on a directory or, named .zip, a zip file; while a run is recorded, after a crash, finished or packed.
docs/format.md has the details.
"""

import sys
from math import prod

import numpy as np
import zarr


def main(path: str) -> None:
    store = zarr.storage.ZipStore(path, mode="r") if path.endswith(".zip") else path
    root = zarr.open_group(store, mode="r")
    card, record = root.attrs["card"], root.attrs["tracer"]
    print(f"{card['model']['class']}: {record['state']}, {record['committed_step']} updates")

    # The examples of each update: row s of `steps` is the update that produced state s.
    n_ids = root["steps/n_ids"][:]
    ends = np.cumsum(n_ids)
    ids = root["steps/ids"][:]
    row = len(n_ids) - 1
    print(f"update {root['steps/step'][row]} used ids {ids[ends[row] - n_ids[row] : ends[row]]}")

    # Weights: flat, one array a dtype; a table in the root attributes says where each tensor is.
    step = int(root["weights/step"][-1])
    for entry in root.attrs["tensors"]:
        start, shape = entry["offset"], entry["shape"]
        values = root[f"weights/{entry['array']}"][-1, start : start + prod(shape)].reshape(shape)
        print(f"step {step}: {entry['name']} {values.shape}, norm {np.linalg.norm(values.astype('f8')):.6f}")

    # Paths: one row of bits a unit, one bit an example.
    probe = root["probes/train"]
    n = probe["id"].shape[0] if probe.attrs["capture"]["masks"] is None else probe.attrs["capture"]["masks"]
    n = min(n, probe["id"].shape[0])
    for site in root.attrs["sites"]:
        if site["start"] is not None:
            rows = slice(site["start"], site["start"] + site["n_units"])
            on = np.unpackbits(probe["masks/bits"][-1, rows], axis=1, count=n).T  # (example, unit)
            print(f"site {site['name']}: {on.shape[1]} units, {on.mean():.6f} of them on")

    # Inner products of per-example gradients, layer by layer.
    gram = root["gram/gram"][-1]
    norms = np.sqrt(np.diagonal(gram, axis1=1, axis2=2))
    for layer, values in zip(root.attrs["layers"], norms, strict=True):
        print(f"layer {layer['name']}: mean gradient norm {values.mean():.6f}")

    # A per-example gradient: stored in full, or as factors a and z whose products add up to it.
    flat = probe["gradients/values"][-1]
    for block in probe["gradients"].attrs["blocks"]:
        parts = {
            part["name"]: flat[part["offset"] : part["offset"] + prod(part["shape"])].reshape(part["shape"])
            for part in block.get("parts", [])
        }
        if block["form"] == "full":
            gradient = parts["grad"]
        elif block["form"] == "outer":
            gradient = np.einsum("nto,nti->noi", parts["z"], parts["a"])
        else:
            continue  # sums and convolutions: see docs/format.md
        squares = np.square(gradient.astype("f8")).reshape(len(gradient), -1).sum(axis=1)
        print(f"gradient of {block['tensor']} {gradient.shape}: mean norm {np.sqrt(squares).mean():.6f}")


if __name__ == "__main__":
    main(sys.argv[1])
