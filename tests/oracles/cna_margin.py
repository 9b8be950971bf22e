"""Products one at a time."""


def products(area, gamma):
    return [a * g for a, g in zip(area, gamma, strict=True)]
