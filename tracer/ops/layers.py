"""Layers that are one operation: recurrent ones, attention, dropout."""

from tracer.ops.record import Op, named

RECORDS = [
    *named(
        "aten.lstm.input aten.gru.input aten.rnn_relu.input aten.rnn_tanh.input",
        random=(5, 6),
        # Their plain forms write into an initial state that all examples share.
        vmap=False,
    ),
    *named(
        """
        aten.lstm_cell.default
        aten.gru_cell.default
        aten.rnn_tanh_cell.default
        aten.rnn_relu_cell.default
        """
    ),
    Op("aten.scaled_dot_product_attention.default", random=(4,)),
    Op("aten._scaled_dot_product_flash_attention_for_cpu.default", random=(3,)),
    *named(
        "aten.dropout.default aten.alpha_dropout.default aten.feature_dropout.default",
        path="reshape",
        affine="all",
        random=(2,),
    ),
]
