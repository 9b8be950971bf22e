"""TracIn from the gradients themselves, snapshot by snapshot."""


def tracin(gradients, rates, train, test):
    """Sum over snapshots of rate * <g(z), g(z')> of gradients (step, example, weight), by (z, z')."""
    influence = {(z, other): 0.0 for z in train for other in test}
    for rate, rows in zip(rates, gradients, strict=True):
        for z, other in influence:
            influence[z, other] += rate * sum(
                float(a) * float(b) for a, b in zip(rows[z], rows[other], strict=True)
            )
    return influence
