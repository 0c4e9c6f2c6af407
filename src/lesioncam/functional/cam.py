"""Maps from activations and gradients: one formula per method, the same for 1D, 2D and 3D.

Activations are ``(N, C, *s)``, gradients ``(N, K, C, *s)``: of the logit of class ``k`` (before the sigmoid) by the
activations. Maps are ``(N, K, *s)``, raw and signed: the ReLU that most papers put last is left to the display, so
that evidence against a class stays visible and a cold map stays cold. A ReLU inside a formula is part of the method.

On a network that ends in a mean and a linear layer (weights ``W``, features ``F``, ``P`` places, ``CAM = W F``)
Grad-CAM, HiResCAM and XGrad-CAM are all ``CAM / P``; the other closed forms stand with their formulas.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def class_maps(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""CAM: the linear head applied at every place, with its bias spread over the map, so that the mean is the logit.

    .. math:: M_k(x) = \sum_c W_{kc} F_c(x) + b_k, \qquad \operatorname{mean}_x M_k = \ell_k

    Args:
        features: what the mean is taken of, ``(N, C, *s)``.
        weight: of the linear head, ``(K, C)``.
        bias: ``(K,)``; None is 0.

    Returns:
        ``(N, K, *s)``, in logits.

    Reference:
        Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016.

    Example:
        >>> features = torch.tensor([[[1.0, 3.0], [2.0, 0.0]]])             # one image, two channels, two places
        >>> class_maps(features, torch.tensor([[1.0, -1.0]]), torch.tensor([0.5]))
        tensor([[[-0.5000,  3.5000]]])
    """
    maps = _weighted(features, weight.expand(len(features), *weight.shape))
    return maps if bias is None else maps + bias.view(1, -1, *[1] * (maps.ndim - 2))


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""Grad-CAM: channels weighted by the mean of their gradient.

    .. math:: \alpha_{kc} = \operatorname{mean}_x G_{kc}(x), \qquad L_k(x) = \sum_c \alpha_{kc} A_c(x)

    Args:
        activations: ``(N, C, *s)``.
        gradients: ``(N, K, C, *s)``.

    Returns:
        ``(N, K, *s)``; the paper's picture is its positive part.

    Reference:
        Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
        ICCV 2017, equations 1 and 2.

    Example:
        >>> a = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> gradcam(a, torch.full((1, 1, 1, 2, 2), 0.5))
        tensor([[[[0.5000, 1.0000],
                  [1.5000, 2.0000]]]])
    """
    return _weighted(activations, gradients.flatten(3).mean(-1))


def gradcam_pp(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""Grad-CAM++: positive gradients, each place weighted so that a class that is there twice counts once per place.

    .. math::
        \alpha_{kc}(x) = \frac{G^2}{2 G^2 + G^3 \sum_y A_c(y)}, \qquad
        w_{kc} = \sum_x \alpha_{kc}(x)\, \mathrm{ReLU}(G_{kc}(x)), \qquad L_k = \sum_c w_{kc} A_c

    The paper's score is ``exp(logit)``; the factor cancels in :math:`\alpha` and only rescales :math:`w`, and it
    overflows, so it is left out. :math:`\alpha` is worked out as :math:`1 / (2 + G \sum A)`, which is the same and
    does not lose small gradients; it is 0 where the denominator is 0. On a GAP network
    :math:`w_c = \mathrm{ReLU}(W_c) / (2 + W_c \bar F_c)`.

    Args:
        activations: ``(N, C, *s)``.
        gradients: ``(N, K, C, *s)``.

    Returns:
        ``(N, K, *s)``.

    Reference:
        Chattopadhay et al., "Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks", WACV 2018.

    Example:
        >>> gradcam_pp(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[[0.5, -1.0]]]]))     # w = 0.5 / (2 + 0.5 * 4)
        tensor([[[0.1250, 0.3750]]])
    """
    total = activations.flatten(2).sum(-1)[:, None, :, None]
    flat = gradients.flatten(3)
    below = 2 + flat * total
    alpha = torch.where(below != 0, 1 / torch.where(below != 0, below, 1.0), 0.0)
    return _weighted(activations, (alpha * flat.relu()).sum(-1))


def hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""HiResCAM: gradient times activation, place by place, so that it shows only places the logit depends on.

    .. math:: H_k(x) = \sum_c G_{kc}(x) A_c(x)

    Args:
        activations: ``(N, C, *s)``.
        gradients: ``(N, K, C, *s)``.

    Returns:
        ``(N, K, *s)``.

    Reference:
        Draelos & Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
        networks", arXiv:2011.08891, 2020.

    Example:
        >>> hirescam(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[[0.5, -1.0]]]]))
        tensor([[[ 0.5000, -3.0000]]])
    """
    return torch.einsum("nkcp,ncp->nkp", gradients.flatten(3), activations.flatten(2)).unflatten(
        -1, activations.shape[2:]
    )


def xgradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""XGrad-CAM: channels weighted by the mean of their gradient, taken where the channel is active.

    .. math:: w_{kc} = \frac{\sum_x G_{kc}(x) A_c(x)}{\sum_x A_c(x)}, \qquad L_k = \sum_c w_{kc} A_c

    A channel whose sum is 0 weighs 0.

    Args:
        activations: ``(N, C, *s)``.
        gradients: ``(N, K, C, *s)``.

    Returns:
        ``(N, K, *s)``.

    Reference:
        Fu et al., "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs", BMVC 2020.

    Example:
        >>> xgradcam(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[[0.5, -1.0]]]]))       # w = (0.5 - 3) / 4
        tensor([[[-0.6250, -1.8750]]])
    """
    flat = activations.flatten(2)
    total = flat.sum(-1)[:, None]
    share = torch.einsum("nkcp,ncp->nkc", gradients.flatten(3), flat)
    return _weighted(activations, torch.where(total != 0, share / torch.where(total != 0, total, 1.0), 0.0))


def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""LayerCAM: positive gradient times activation, place by place; made for shallow layers.

    .. math:: L_k(x) = \sum_c \mathrm{ReLU}(G_{kc}(x))\, A_c(x)

    On a GAP network with ``P`` places it is :math:`\sum_c \mathrm{ReLU}(W_c) F_c / P`.

    Args:
        activations: ``(N, C, *s)``.
        gradients: ``(N, K, C, *s)``.

    Returns:
        ``(N, K, *s)``.

    Reference:
        Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", IEEE TIP 2021.

    Example:
        >>> layercam(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[[0.5, -1.0]]]]))
        tensor([[[0.5000, 0.0000]]])
    """
    return hirescam(activations, gradients.relu())


def eigencam(activations: Tensor, gradients: Tensor) -> Tensor:
    r"""Eigen-CAM: the activations along their first principal direction; the same map for every class.

    .. math:: L(x) = \sum_c v_c A_c(x), \quad v \text{ the first right singular vector of } A \in R^{P \times C}

    The sign of a singular vector is arbitrary; it is chosen so that the sum of the map is not negative.

    Args:
        activations: ``(N, C, *s)``.
        gradients: ``(N, K, C, *s)``; only K is looked at.

    Returns:
        ``(N, K, *s)``, NaN for an image whose activations are not finite.

    Reference:
        Muhammad & Yeasin, "Eigen-CAM: Class Activation Map using Principal Components", IJCNN 2020.

    Example:
        >>> a = torch.tensor([[[3.0, 0.0], [4.0, 0.0]]])                    # one place is active, with length 5
        >>> eigencam(a, torch.zeros(1, 2, 2, 2)).round(decimals=4)
        tensor([[[5., 0.],
                 [5., 0.]]])
    """
    flat = activations.flatten(2)
    finite = torch.isfinite(flat).all(-1).all(-1)[:, None, None]
    left, size, _ = torch.linalg.svd(torch.where(finite, flat, 0.0).mT, full_matrices=False)
    maps = (left[..., :1] * size[:, None, :1]).mT
    maps = torch.where(maps.sum(-1, keepdim=True) < 0, -maps, maps)
    maps = torch.where(finite, maps, torch.nan).unflatten(-1, activations.shape[2:])
    return maps.expand(-1, gradients.shape[1], *maps.shape[2:]).contiguous()


def _weighted(activations: Tensor, weights: Tensor) -> Tensor:
    """Channels ``(N, C, *s)`` summed with weights ``(N, K, C)``: ``(N, K, *s)``."""
    return (weights @ activations.flatten(2)).unflatten(-1, activations.shape[2:])


FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "eigencam": eigencam,
    "gradcam": gradcam,
    "gradcam_pp": gradcam_pp,
    "hirescam": hirescam,
    "layercam": layercam,
    "xgradcam": xgradcam,
}
"""Every method that is a formula over activations and gradients, by name."""
