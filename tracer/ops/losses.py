"""Losses, and the softmax before them."""

from tracer.ops.record import named

RECORDS = [
    *named(
        """
        aten._log_softmax.default
        aten._softmax.default
        aten.log_softmax.int
        aten.softmax.int
        """,
        path="scores",
    ),
    *named(
        """
        aten.binary_cross_entropy.default
        aten.binary_cross_entropy_with_logits.default
        aten.cosine_embedding_loss.default
        aten.cross_entropy_loss.default
        aten.ctc_loss.IntList
        aten.hinge_embedding_loss.default
        aten.huber_loss.default
        aten.kl_div.default
        aten.l1_loss.default
        aten.margin_ranking_loss.default
        aten.mse_loss.default
        aten.multi_margin_loss.default
        aten.multilabel_margin_loss.default
        aten.multilabel_margin_loss_forward.default
        aten.nll_loss.default
        aten.nll_loss_forward.default
        aten.nll_loss2d.default
        aten.nll_loss2d_forward.default
        aten.nll_loss_nd.default
        aten.poisson_nll_loss.default
        aten.smooth_l1_loss.default
        aten.soft_margin_loss.default
        aten.triplet_margin_loss.default
        """
    ),
]
