"""How much memory an analysis may take, in words."""

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_memory(memory: int | str) -> int:
    """Bytes of a size such as `2GB` (powers of 1000) or a number of bytes.

    >>> parse_memory("1.5GB"), parse_memory(1024)
    (1500000000, 1024)
    """
    text = str(memory).strip().upper().replace("IB", "B")
    number = text.rstrip("KMGTB ")
    try:
        value = int(float(number) * UNITS[text[len(number) :].strip()])
    except (KeyError, ValueError):
        value = 0
    if value <= 0:
        raise ValueError(f"memory is a number of bytes or a size such as '2GB', got {memory!r}")
    return value
