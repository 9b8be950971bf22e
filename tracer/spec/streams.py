"""The streams: what is recorded at snapshots. One record each, and nothing else lists them."""

from dataclasses import dataclass

from tracer.spec.entries import Array, Attribute


@dataclass(frozen=True)
class Stream:
    """One kind of thing recorded at snapshots.

    group: where it is in an archive. arrays, attributes: what that group holds beside `step` and `epoch_end`.
    capture: of how many examples of a probe, the first n, unless said otherwise (None: all). how: what to say
    to `tracer.record` to have it.
    """

    name: str
    group: str
    meaning: str
    arrays: tuple[Array, ...]
    how: str
    capture: int | None = None
    attributes: tuple[Attribute, ...] = ()

    @property
    def of_probes(self) -> bool:
        """Whether it is recorded of the examples of probes, rather than of the network."""
        return self.group.startswith("probes/")


def _of_probes(name: str, meaning: str, *arrays: Array, how: str, capture: int | None) -> Stream:
    return Stream(name, f"probes/<probe>/{name}", meaning, arrays, how, capture)


# In the order in which a probe pass takes them.
STREAMS: dict[str, Stream] = {
    stream.name: stream
    for stream in (
        _of_probes(
            "outputs",
            "what the network returns for each example",
            Array("outputs", "float", ("step", "outputs_example", "..."), "outputs of the network"),
            Array("loss", "float", ("step", "outputs_example"), "loss of each example"),
            Array(
                "correct",
                "float32",
                ("step", "outputs_example"),
                "share of the example's answers that are correct, as the objective says",
                required=False,
            ),
            how="record probes; outputs are recorded unless capture={'outputs': 0}",
            capture=None,
        ),
        _of_probes(
            "sums",
            "sums over the units of one call or site, for each example",
            Array("pre", "float64", ("step", "sums_example", "call"), "sum of the outputs of the call"),
            Array("post", "float64", ("step", "sums_example", "site"), "sum of the outputs of the site"),
            how="record probes; sums are recorded unless capture={'sums': 0}",
            capture=None,
        ),
        _of_probes(
            "masks",
            "paths: which units are on (pre-activation > 0); all masked sites one after another, big-endian bits",
            Array("bits", "uint8", ("step", "unit", "masks_byte"), "bit j: the unit is on for example j"),
            how="record probes with capture={'masks': n}, on a model with ReLUs",
            capture=512,
        ),
        Stream(
            "gradients",
            "probes/<probe>/gradients",
            "gradient of each example's loss; attribute `blocks` says how to read the flat values",
            (
                Array(
                    "values",
                    "float",
                    ("step", "gradients_element"),
                    "rows or factors of the gradients: float32, or float64 where a parameter is",
                ),
            ),
            "record with gradients='exact' and probes whose capture has {'gradients': n}",
            128,
            (Attribute("blocks", "list", "one object a block: tensor, form, parts (name, offset, shape)"),),
        ),
        _of_probes(
            "activations",
            "outputs of all sites, one after another",
            Array(
                "values",
                "float32",
                ("step", "activations_example", "activations_unit"),
                "outputs of the sites",
            ),
            how="record probes with capture={'activations': n}",
            capture=0,
        ),
        Stream(
            "weights",
            "weights",
            "parameters and buffers, flattened, one array a dtype; root attribute `tensors` says where each is",
            (
                Array(
                    "<dtype>", "<dtype>", ("step", "<dtype>_element"), "tensors of this dtype", required=False
                ),
            ),
            "record the stream weights, as the default snapshots= does",
        ),
    )
}

PROBE_STREAMS = tuple(name for name, stream in STREAMS.items() if stream.of_probes)

# What else is recorded at snapshots or updates, without a schedule of its own: how to have it.
HOW = {name: stream.how for name, stream in STREAMS.items()} | {
    "gram": "record with gradients='gram' or 'exact' and probes whose capture has {'gradients': n}",
    "minibatch": "record with minibatch=True",
}
