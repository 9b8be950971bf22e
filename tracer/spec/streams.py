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


def _of_probes(
    name: str,
    meaning: str,
    *arrays: Array,
    how: str,
    capture: int | None,
    attributes: tuple[Attribute, ...] = (),
) -> Stream:
    return Stream(name, f"probes/<probe>/{name}", meaning, arrays, how, capture, attributes)


def _token(name: str, meaning: str, units: str = "1", required: bool = True) -> Array:
    return Array(name, "float32", ("step", "tokens_example", "token"), meaning, units, required)


# In the order in which a probe pass takes them.
STREAMS: dict[str, Stream] = {
    stream.name: stream
    for stream in (
        _of_probes(
            "outputs",
            "what the network returns for each example",
            Array(
                "outputs",
                "float",
                ("step", "outputs_example", "..."),
                "outputs of the network",
                required=False,
            ),
            Array("loss", "float", ("step", "outputs_example"), "loss of each example"),
            Array(
                "correct",
                "float32",
                ("step", "outputs_example"),
                "share of the example's answers that are correct, as the objective says",
                required=False,
            ),
            Array(
                "top_score",
                "float32",
                ("step", "outputs_example", "...", "top"),
                "largest scores of each answer, falling, in the place of outputs over more than 4,096 classes",
                required=False,
            ),
            Array(
                "top_class",
                "int32",
                ("step", "outputs_example", "...", "top"),
                "classes of these scores",
                required=False,
            ),
            Array(
                "log_sum_exp",
                "float64",
                ("step", "outputs_example", "..."),
                "logarithm of the sum of the exponentials of all scores of the answer",
                required=False,
            ),
            Array(
                "entropy",
                "float64",
                ("step", "outputs_example", "..."),
                "entropy of the softmax of all scores of the answer",
                "nat",
                required=False,
            ),
            Array(
                "target_score",
                "float32",
                ("step", "outputs_example"),
                "score of the class that is the target, where an example has one",
                required=False,
            ),
            how="record probes; outputs are recorded unless capture={'outputs': 0}",
            capture=None,
            attributes=(
                Attribute(
                    "classes",
                    "integer",
                    "how many there are, where the largest scores stand for outputs",
                    False,
                ),
            ),
        ),
        _of_probes(
            "tokens",
            "each answer of a model that gives one at every token, in the order of its targets; NaN where the loss "
            "leaves it out",
            _token("log_prob", "logarithm of the probability of the target", "nat"),
            _token("correct", "1 where the target has the largest score, else 0"),
            _token("loss", "loss of the answer", required=False),
            how="record a probe whose targets are one class number for each token, with a loss= or objective= that "
            "says which answers are correct; tokens are recorded unless capture={'tokens': 0}",
            capture=None,
            attributes=(
                Attribute("first", "integer", "position among the targets of that of the first answer"),
            ),
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

# What a note of a recording says where its checks refused the gradients.
GRADIENTS_OFF = "gradients are off"

# What else is recorded at snapshots or updates, without a schedule of its own: how to have it.
HOW = {name: stream.how for name, stream in STREAMS.items()} | {
    "gram": "record with gradients='gram' or 'exact' and probes whose capture has {'gradients': n}",
    "sketches": "record with gradients='sketch' and probes whose capture has {'gradients': n}",
    "minibatch": "record with minibatch=True",
}
