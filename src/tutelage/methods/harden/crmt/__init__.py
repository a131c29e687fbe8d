"""CRMT: multi-modal training that enlarges every modality's margin, then weighs the modalities by certified radius.

For whoever has a classifier of two or more modalities that leans on one of them, and asks: which one is the weak spot, how
far can an attacker go, and how do I mend it?

    Yang, Wei, Liang, Hu: Quantifying and Enhancing Multi-modal Robustness with Modality Preference,
    arXiv 2402.06244 (2024), ICLR 2024.

Modalities m = 1..M, encoders phi^m, K classes, weights a_k^m >= 0:

    h_k(x) = sum_m a_k^m z_k^m + b_k,  z_k^m = W~_k^m . phi^m(x^m)                                          (1)
    W~ = (Z Z^T)^(-1/2) Z, Z the rows of W with their means taken off; so W~ W~^T = I                       (2)
    L_margin = mean_i log( sum_m sum_{k != y} exp(z_k^m - z_y^m) + 1e-5 )                                   (3)
    margin of one modality: a_y z_y^m - max_{j != y} a_j z_j^m; its share of all margins is the preference  (4)
    r(x) = min_{j != y} [ sum_m (a_y^m z_y^m - a_j^m z_j^m) + b_y - b_j ]
                        / sqrt( sum_m (a_y^m tau_y^m + a_j^m tau_j^m)^2 ),  0 if negative                   (5)
    tau_k^m >= Lipschitz constant of z_k^m in x^m                                                           (6)

(5) is a lower bound of the L2 distance to the decision boundary; for an attack on modality m alone the root becomes
a_y^m tau_y^m + a_j^m tau_j^m.

    Step 1, n epochs: minimise CE(h(x), y) + rho L_margin.                                                  (7)
    Step 2, n/3 epochs: all else frozen, maximise the mean of (5) over a, j the runner-up of h.             (8)

CRMT-AT: x in (7) is a joint L2 PGD example. CRMT-mix: x and labels are mixed, lambda ~ Beta(1, 1) for all modalities.

tau is one of two things, and they are never mixed up here: "empirical", the largest gradient norm seen on training data (the
paper's; a lower estimate, so (5) is then certified in form only), or "spectral", a sound upper bound from the layers' norms.

The released code differs where it errs; none of that is copied: when it measures tau, the visual gradient piles up over
the classes; tau is taken of a z and multiplied by a again; the mix loss subtracts raw scores where exponentials are meant;
BatchNorm drifts while step 2 calls the encoders frozen; one joint ball is used where eps differ; and the best checkpoint is
chosen on the test data. Its head, which only scales each row (`ortho="row"`), is an option.

Example::

    import torch
    from tutelage.data.multimodal import MultiModalSet
    from tutelage.methods.harden.crmt import OrthogonalFusion, crmt_fit
    from tutelage.models.fusion import FusionModel, MLPEncoder

    y = torch.arange(60) % 3
    inputs = {"sound": torch.randn(60, 5) + y[:, None], "sight": torch.randn(60, 4) - y[:, None]}  # yours: any shapes
    data = MultiModalSet(inputs, y, ("a", "b", "c"), split="train")
    model = FusionModel({"sound": MLPEncoder(5, 8), "sight": MLPEncoder(4, 8)}, OrthogonalFusion((8, 8), 3))
    report = crmt_fit(model, data, epochs=3, lr=0.05)
    print(report.preference, report.radius_before, report.radius_after)
"""

from __future__ import annotations

from tutelage.methods.harden.crmt.fusion import OrthogonalFusion, orthogonal_rows
from tutelage.methods.harden.crmt.margins import (
    certified_radius,
    margin_regulariser,
    mixed_margin_regulariser,
    modality_lipschitz,
    modality_margins,
    preference,
    score_all,
)
from tutelage.methods.harden.crmt.passport import Passport, passport
from tutelage.methods.harden.crmt.training import CRMT, CRMTReport, Integration, crmt_fit, fit_fusion, maximise_radius

__all__ = [
    "CRMT",
    "CRMTReport",
    "Integration",
    "OrthogonalFusion",
    "Passport",
    "certified_radius",
    "crmt_fit",
    "fit_fusion",
    "margin_regulariser",
    "maximise_radius",
    "mixed_margin_regulariser",
    "modality_lipschitz",
    "modality_margins",
    "orthogonal_rows",
    "passport",
    "preference",
    "score_all",
]
