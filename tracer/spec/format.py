"""The archive format as data: groups, arrays, dimensions, dtypes, attributes. docs/format.md shows it."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tracer.spec.entries import Array, Attribute
from tracer.spec.streams import STREAMS, Stream

if TYPE_CHECKING:
    import numpy as np

FORMAT = "tracer"
FORMAT_VERSION = "1.1"
MAJOR, MINOR = (int(part) for part in FORMAT_VERSION.split("."))

STATES = ("recording", "complete", "interrupted")
RANKS = "ranks"  # where the archives of the processes other than the first are
MAX_RANKS = 1 << 14
OF_GRADIENTS = ("gram", "sketches")  # groups that are recorded with the gradients, in place of them or beside

# Rows of one object, and of one inner chunk, of arrays that grow row by row: of updates, of their ids, and of others.
STEP_ROWS, STEP_INNER = 1 << 18, 1 << 10
# More scalars than these have objects of fewer rows, since each commit writes the last one of each anew.
FEW_SCALARS = 16
SCALAR_ROWS = 1 << 14
IDS_ROWS, IDS_INNER = 1 << 20, 1 << 12
TAIL_ROWS, TAIL_INNER = 1 << 12, 1 << 8
OBJECT_BYTES, OBJECT_ROWS = 1 << 23, 512  # of one object of small snapshots, at most
READ_BYTES = 1 << 14  # of one inner chunk of these, as far as a snapshot is not larger
MANIFEST_FIELDS = ("array", "row", "column", "nbytes", "crc32c", "commit")


@dataclass(frozen=True)
class Group:
    """One group; ``stream`` adds the ``step`` and ``epoch_end`` every stream has."""

    path: str
    meaning: str
    arrays: tuple[Array, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    stream: bool = False
    required: bool = False
    coordinates: tuple[str, ...] = ()

    def all_arrays(self) -> tuple[Array, ...]:
        """Return the arrays of the group, those common to all streams included."""
        return (*_STREAM_ARRAYS, *self.arrays) if self.stream else self.arrays


_STREAM_ARRAYS = (
    Array("step", "int64", ("step",), "updates made when the snapshot was taken, increasing"),
    Array("epoch_end", "bool", ("step",), "the snapshot was taken at the end of an epoch"),
)
STREAM_COLUMNS = tuple(array.name for array in _STREAM_ARRAYS)


def _group(stream: Stream) -> Group:
    return Group(stream.group, stream.meaning, stream.arrays, stream.attributes, stream=True)


ROOT_ATTRIBUTES = (
    Attribute("tracer", "object", "the commit record, see below"),
    Attribute("title", "string", "what the run is called"),
    Attribute("created_at", "string", "start of the recording, ISO 8601 with time zone"),
    Attribute("creation_library", "string", "`tracer`"),
    Attribute("creation_library_version", "string", "its version"),
    Attribute("card", "object", "model class, optimizer, loss, schedules, versions, settings", False),
    Attribute(
        "sites", "list", "one object a site: name, op, module, shape, n_units, start, has_mask, slope", False
    ),
    Attribute("calls", "list", "one object a call: name, op, module, shape", False),
    Attribute("layers", "list", "one object a layer: name, parameters", False),
    Attribute("notes", "list", "sentences on what is not recorded, or in another way than asked for", False),
    Attribute("gaps", "list", "snapshots that a time budget left out", False),
    Attribute(
        "tensors",
        "list",
        "one object a tensor: name, kind, shape, dtype, source_dtype, array, offset, trainable, layer",
        False,
    ),
    Attribute(
        "rank",
        "object",
        "of an archive within `ranks`: `rank`, the number of its process, and `world_size`",
        False,
    ),
)

COMMIT_RECORD = (
    Attribute("format", "string", "`tracer`"),
    Attribute("format_version", "string", "major.minor of this format"),
    Attribute("run_id", "string", "random, 32 hexadecimal digits"),
    Attribute("state", "string", "`recording`, `complete` or `interrupted`"),
    Attribute("commit", "integer", "number of this commit, 1 at creation"),
    Attribute("committed_step", "integer or null", "step of the last row of `steps`"),
    Attribute(
        "resumes",
        "list",
        "one object for each time the recording was taken up again: step (the last one kept, or null), dropped "
        "(step of the last row before that), commit, time",
        False,
    ),
    Attribute("rows", "object", "committed number of rows of each group that grows"),
    Attribute(
        "tails", "object", "object key to CRC-32C of the committed rows of an object that may still change"
    ),
    Attribute("manifest_rows", "integer", "committed rows of `manifest/objects`"),
    Attribute("manifest_digest", "string", "chained BLAKE2b-256 of those rows"),
    Attribute("digest", "string", "BLAKE2b-256 of this file with these 64 digits set to 0"),
)

GROUPS = (
    Group(
        "steps",
        "every update, from row 0 (initialisation, no update) on",
        (
            Array("step", "int64", ("step",), "updates made, increasing"),
            Array("epoch", "int32", ("step",), "epoch the update belongs to"),
            Array("time", "float64", ("step",), "when the update ended", "seconds since 1970-01-01T00:00:00"),
            Array("n_ids", "int32", ("step",), "number of ids of the update"),
            Array("ids", "int64", ("id",), "ids of the examples of each update, one update after another"),
            Array("loss", "float64", ("step",), "training loss of the update, taken before it"),
            Array("lr", "float64", ("step", "param_group"), "learning rate of the update"),
            Array("skipped", "bool", ("step",), "the update was skipped (overflow of a scaled gradient)"),
            Array("<scalar>", "float64", ("step",), "a scalar logged by the user", required=False),
        ),
        required=True,
        coordinates=("epoch", "time"),
    ),
    _group(STREAMS["weights"]),
    Group(
        "probes/<probe>",
        "a fixed set of examples; its own arrays do not change",
        (
            Array("id", "int64", ("example",), "id of each example within its split"),
            Array("inputs", "any", ("example", "..."), "what the network is given", required=False),
            Array("targets", "any", ("example", "..."), "targets as trained", required=False),
            Array("true_targets", "any", ("example", "..."), "targets before corruption", required=False),
            Array("group", "any", ("example",), "a user's partition of the examples", required=False),
            Array("raw", "any", ("example", "..."), "inputs before normalisation", required=False),
            Array(
                "digest",
                "uint8",
                ("example", "digest_byte"),
                "BLAKE2b-128 of the bytes of its inputs, where these are not stored",
                required=False,
            ),
        ),
        (
            Attribute("split", "string", "`train`, `test`, ..."),
            Attribute("capture", "object", "stream to number of examples, the first n"),
            Attribute("chunks", "list", "[start, stop] of each chunk of examples run together"),
            Attribute("digest", "string", "SHA-256 of ids, inputs and targets"),
        ),
    ),
    *(_group(stream) for stream in STREAMS.values() if stream.of_probes),
    Group(
        "probes/<probe>/sketches",
        "a few random sums of each example's gradient, layer after layer, whose inner products are on average those "
        "of the gradients, see Sketches",
        (Array("values", "float32", ("step", "sketches_example", "sketches_element"), "sums of all layers"),),
        (
            Attribute(
                "layers",
                "list",
                "one object a layer: layer, offset, size, buckets (0: the gradients themselves)",
            ),
            Attribute("blocks", "integer", "draws of each layer that has buckets"),
            Attribute("seed", "integer", "of the draws"),
            Attribute("tolerance", "number", "standard error of a cosine that was asked for"),
        ),
        stream=True,
    ),
    Group(
        "gram",
        "inner products of per-example gradients within each layer, over the gradient examples of all probes",
        (Array("gram", "float64", ("step", "layer", "example", "example_2"), "inner products of gradients"),),
        (Attribute("probes", "list", "[name, n] of each probe, in the order of the examples"),),
        stream=True,
    ),
    Group(
        "minibatch",
        "the training minibatches as the training forward pass saw them: row i belongs to entry i of "
        "`steps/ids`",
        (
            Array("loss", "float64", ("id",), "loss of the example", required=False),
            Array(
                "correct", "int8", ("id",), "1: classified correctly, 0: not, -1: not known", required=False
            ),
            Array("pre", "float32", ("id", "call"), "sum of the outputs of the call", required=False),
            Array("post", "float32", ("id", "site"), "sum of the outputs of the site", required=False),
        ),
        (
            Attribute("mode", "string", "`train`: batch statistics and dropout as in training"),
            Attribute("captured", "list", "what was asked for and can be captured"),
        ),
    ),
    Group(
        "minibatch/masks",
        "paths of the examples of the update that produced this step, in the order of its ids",
        (
            Array("bits", "uint8", ("step", "unit", "masks_byte"), "bit j: the unit is on for example j"),
            Array("n", "int32", ("step",), "number of examples; the bits after them are 0"),
        ),
        (Attribute("missing", "list", "names of masked sites that were not seen, whose bits are 0"),),
        stream=True,
    ),
    Group(
        "data",
        "the training set, one entry an example",
        (
            Array("id", "int64", ("example",), "id of the example, as in `steps/ids`"),
            Array("label", "any", ("example", "..."), "its target", required=False),
            Array(
                "alpha", "float64", ("example",), "entropy of the values of its input", "bit", required=False
            ),
            Array(
                "digest",
                "uint8",
                ("example", "digest_byte"),
                "BLAKE2b-128 of the bytes of its input",
                required=False,
            ),
            Array("inputs", "any", ("example", "..."), "its input", required=False),
        ),
        (Attribute("complexity", "object", "bins and range of the histogram of `alpha`", False),),
    ),
    Group(
        "network",
        "the traced networks: version v holds from a step on",
        (
            Array("table_<v>", "uint8", ("byte_<v>",), "JSON text, UTF-8", required=False),
            Array("constant_<v>_<i>", "any", ("...",), "constants of the table", required=False),
        ),
        (
            Attribute(
                "versions",
                "list",
                "one object a version: version, from_step, digest, constants (name to array)",
            ),
        ),
    ),
    Group(
        "ranks",
        "of a run on several processes; `ranks/<k>` is the archive of process k, see Several processes",
        (),
        (Attribute("world_size", "integer", "number of processes, that of this archive (rank 0) included"),),
    ),
    Group(
        "manifest",
        "one row for each object that will not change again",
        (Array("objects", "int64", ("object", "field"), "see Manifest"),),
        (
            Attribute("fields", "list", "names of the columns"),
            Attribute("arrays", "list", "paths of the arrays; column `array` counts in this list"),
        ),
        required=True,
    ),
)


def find_group(path: str) -> Group | None:
    """Return the description of the group at ``path``, None for one this version does not know.

    >>> find_group("probes/train/masks").path
    'probes/<probe>/masks'
    """
    parts = path.split("/")
    pattern = "/".join([parts[0], "<probe>", *parts[2:]]) if parts[0] == "probes" and len(parts) > 1 else path
    return next((group for group in GROUPS if group.path == pattern), None)


def stream_of(group: str) -> str:
    """The stream whose schedule a group follows: inner products and sketches come with the gradients.

    >>> stream_of("probes/train/masks"), stream_of("gram"), stream_of("probes/train/sketches")
    ('masks', 'gradients', 'gradients')
    """
    name = group.rpartition("/")[2]
    return "gradients" if name in OF_GRADIENTS else name


def describe(group: str, array: str) -> dict[str, str]:
    """Attributes that label an array in plots and tables: ``long_name`` and ``units``.

    >>> describe("steps", "loss")
    {'long_name': 'training loss of the update, taken before it', 'units': '1'}
    """
    known = find_group(group)
    for entry in known.all_arrays() if known else ():
        if entry.name == array or (entry.name == "<dtype>" and array != "step"):
            return {"long_name": entry.meaning, "units": entry.units}
    return {"long_name": array.replace("_", " "), "units": "1"}


def fill_value(dtype: np.dtype) -> Any:
    """Return the JSON fill value of a dtype: NaN or -1 where it has one, since a gap must not look like data.

    >>> import numpy as np
    >>> fill_value(np.dtype("float32")), fill_value(np.dtype("int64")), fill_value(np.dtype("bool"))
    ('NaN', -1, False)
    """
    return {"f": "NaN", "c": ["NaN", "NaN"], "i": -1, "u": 0, "b": False}[dtype.kind]


def fill_scalar(dtype: np.dtype) -> Any:
    """Return ``fill_value`` as a number of the dtype."""
    return {"f": math.nan, "c": complex(math.nan, math.nan), "i": -1, "u": 0, "b": False}[dtype.kind]


def column_rows(group: str) -> tuple[int, int]:
    """Rows of one object, and of one inner chunk, of a column: of ``steps``, or of step and epoch_end of a stream.

    >>> column_rows("steps"), column_rows("weights")
    ((262144, 1024), (4096, 256))
    """
    return (STEP_ROWS, STEP_INNER) if group == "steps" else (TAIL_ROWS, TAIL_INNER)


def scalar_rows(before: int) -> tuple[int, int]:
    """The same of a logged scalar, where so many came before.

    >>> scalar_rows(0), scalar_rows(16)
    ((262144, 1024), (16384, 1024))
    """
    return (STEP_ROWS if before < FEW_SCALARS else min(STEP_ROWS, SCALAR_ROWS)), STEP_INNER


def ids_rows(row_bytes: int) -> tuple[int, int]:
    """Rows of one object, and of one inner chunk, of an array along the ids.

    >>> ids_rows(8), ids_rows(400)
    ((1048576, 4096), (16384, 64))
    """
    pieces = IDS_ROWS // IDS_INNER
    rows = min(IDS_ROWS, max(pieces, 1 << (OBJECT_BYTES // max(1, row_bytes)).bit_length() - 1))
    return rows, rows // pieces


def snapshot_rows(snapshot_bytes: int, object_bytes: int = OBJECT_BYTES) -> tuple[int, int]:
    """Snapshots in one object of an array of a stream, and in one of its inner chunks; (1, 1): an object each.

    >>> snapshot_rows(1000), snapshot_rows(1 << 20), snapshot_rows(4 << 20), snapshot_rows(1 << 20, 1 << 21)
    ((512, 16), (8, 1), (1, 1), (1, 1))
    """
    if not 0 < 2 * snapshot_bytes < object_bytes:
        return 1, 1
    inner = 1 << max(0, (READ_BYTES // snapshot_bytes).bit_length() - 1)
    inner = min(inner, max(1, OBJECT_ROWS // 8))
    return max(1, min(OBJECT_ROWS, object_bytes // snapshot_bytes) // inner) * inner, inner


def version_of(before: str) -> str:
    """Format version of an archive that this release writes into: its own, or the later minor one it has.

    >>> version_of("1.0") == FORMAT_VERSION, version_of("1.99")
    (True, '1.99')
    """
    return before if int(before.partition(".")[2]) > MINOR else FORMAT_VERSION


def step_columns() -> tuple[Array, ...]:
    """Return the columns of ``steps`` that every archive has; a logged scalar cannot take their names."""
    return tuple(array for array in GROUPS[0].arrays if array.required)


_LONGEST_KEY = 60  # characters: file systems take 255 bytes


def scalar_key(name: str) -> str:
    """Return the array a logged scalar is stored in: its name, less what a file name cannot hold.

    >>> scalar_key("valid/top-1 [%]"), len(scalar_key("long " * 100))
    ('valid_top-1 ___', 60)
    """
    key = re.sub(r"[^\w\- ]", "_", name).strip() or "_"
    if len(key) <= _LONGEST_KEY:
        return key
    return f"{key[: _LONGEST_KEY - 13].strip()}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
