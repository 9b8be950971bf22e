"""Normalisations."""

from tracer.ops.record import Argument, Normalisation, Op, Rule

_BATCH = Rule("batch_norm", 0, 1, 2)
_LAYER = Rule("layer_norm", 0, 2, 3)
_RMS = Rule("rms_norm", 0, 2)

RECORDS = [
    Op(
        "aten.batch_norm.default",
        rule=_BATCH,
        normalises=Normalisation("batch", Argument(7), training=5),
        path="batch_norm",
        affine="first",
    ),
    Op(
        "aten._native_batch_norm_legit_no_training.default",
        rule=_BATCH,
        normalises=Normalisation("batch", Argument(6), results=3),
        path="batch_norm",
        affine="first",
    ),
    # By the statistics of the batch: no example has a gradient of its own.
    Op("aten._native_batch_norm_legit.no_stats", rule=_BATCH),
    Op("aten._native_batch_norm_legit_functional.default", rule=_BATCH),
    Op("aten.layer_norm.default", rule=_LAYER, normalises=Normalisation("layer", Argument(4, 1e-5), 1)),
    Op(
        "aten.native_layer_norm.default",
        rule=_LAYER,
        normalises=Normalisation("layer", Argument(4, 1e-5), 1, results=3),
    ),
    Op(
        "aten.group_norm.default",
        rule=Rule("group_norm", 0, 2, 3),
        normalises=Normalisation("group", Argument(4, 1e-5), 1),
    ),
    Op(
        "aten.native_group_norm.default",
        rule=Rule("group_norm", 0, 1, 2),
        normalises=Normalisation("group", Argument(7), 6, results=3),
    ),
    Op(
        "aten.instance_norm.default",
        rule=Rule("instance_norm", 0, 1, 2),
        normalises=Normalisation("instance", Argument(7), training=5),
    ),
    Op("aten.rms_norm.default", rule=_RMS, normalises=Normalisation("rms", Argument(3), 1)),
    Op("aten._fused_rms_norm.default", rule=_RMS, normalises=Normalisation("rms", Argument(3), 1, results=2)),
]
