"""Groups by sorting (complexity, id) and dealing out consecutive slices."""


def groups(complexity, ids, count):
    """Positions of the examples in each group, from simple to complex."""
    order = sorted(range(len(ids)), key=lambda i: (complexity[i], ids[i]))
    small, larger = divmod(len(order), count)
    found, start = [], 0
    for g in range(count):
        stop = start + small + (g < larger)
        found.append(order[start:stop])
        start = stop
    return found


def error(correct, members):
    return sum(not correct[i] for i in members) / len(members) if members else None
