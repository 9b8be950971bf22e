"""Walk over the epochs once, with a list for each period."""


def ratio(similarity, lr):
    """`similarity[e]` compares epoch e with e - 1, `lr[e]` is the rate of epoch e; entry 0 is unused."""
    lists, current = [[]], None
    for value, rate in zip(similarity[1:], lr[1:], strict=True):
        if current is not None and rate != current:
            lists.append([])
        current = rate
        lists[-1].append(value)
    early, mid = ([v for v in values if v == v] for values in lists[:2])
    return (sum(early) / len(early)) / (sum(mid) / len(mid))
