"""The latent reconstruction loss on the torch side: what is decoded, and what gradient goes where.

    latent error = E |mu(dec(z)) - t|^2,    a sum over units, the mean over a batch

One draw of z for every sample, whatever number of draws the distortion takes. z, t and the share
of the gradient that reaches the encoder differ from point to point of a stack
(`linvae.spec.LatentReconstruction`), so a member has in a stack the gradient that it has alone.

| symbol | argument        | shape                          | unit           |
|--------|-----------------|--------------------------------|----------------|
| q      | terms.levels    | (n_seeds, n_points, rows, k)   | latent units   |
| z ~ q  | latent          | (n_seeds, n_points, rows, k)   | latent units   |
| z ~ p  | prior           | (n_seeds, batch, k)            | latent units   |
| error  | Terms.latent_error | (n_seeds, n_points)         | latent units^2 |

The pass leaves running statistics of networks as they are: they stay those of the data. Equalities
that tests check: `linvae.theory`'s penalty of the same weights; its thresholds, from the gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from linvae.objectives import Terms
from linvae.spec import LATENT_SOURCES, LatentReconstruction

__all__ = ["ReEncoder", "Routing", "aside", "with_latent_error"]


class ReEncoder(nn.Module):
    """A stack whose encoder can read what its decoder gives."""

    def forward(
        self,
        target: Tensor,
        condition: Tensor | None,
        noise: Sequence[Tensor],
        routing: Routing | None = None,
        prior: Tensor | None = None,
    ) -> Terms:
        """Objective terms on one batch; arguments as in `forward_with_latents`.

        With a `routing`, of models of one level, the latent error too; `prior` as there.
        """
        terms, latents = self.forward_with_latents(target, condition, noise)
        if routing is None:
            return terms
        return with_latent_error(self, routing, terms, latents[0], prior, (target, condition))

    def forward_with_latents(
        self, target: Tensor, condition: Tensor | None, noise: Sequence[Tensor]
    ) -> tuple[Terms, list[Tensor]]:
        """Objective terms on one batch, and the sampled latents of every level."""
        raise NotImplementedError

    def re_encode(
        self, z: Tensor, target: Tensor, condition: Tensor | None, encoder_share: Tensor
    ) -> Tensor:
        """Mean of q at the decoder's mean of z."""
        raise NotImplementedError


@dataclass(frozen=True)
class Routing:
    """The loss of every point; masks and shares (1, n_points, 1, 1), False without a loss.

    `from_prior`, `from_draw`: where z comes from, else the mean of q; `to_mean`: t is that mean,
    else z; `holds_input`, `holds_target`: what is a constant for the gradient.
    """

    used: Tensor
    from_prior: Tensor
    from_draw: Tensor
    to_mean: Tensor
    holds_input: Tensor
    holds_target: Tensor
    encoder_share: Tensor
    needs_prior: bool

    @classmethod
    def of(cls, losses: Sequence[LatentReconstruction | None], device: torch.device) -> Routing:
        """Of the points of a stack."""

        def where(*names: str, field: str = "source") -> Tensor:
            flags = [loss is not None and getattr(loss, field) in names for loss in losses]
            return torch.tensor(flags, device=device)[None, :, None, None]

        shares = [1.0 if loss is None else loss.encoder_share for loss in losses]
        return cls(
            used=where(*LATENT_SOURCES),
            from_prior=where("prior"),
            from_draw=where("posterior", "posterior-to-mean"),
            to_mean=where("posterior-to-mean"),
            holds_input=where("input", "both", field="detach"),
            holds_target=where("target", "both", field="detach"),
            encoder_share=torch.tensor(shares, device=device)[None, :, None, None],
            needs_prior=any(loss is not None and loss.source == "prior" for loss in losses),
        )


def with_latent_error(
    model: ReEncoder,
    routing: Routing,
    terms: Terms,
    latent: Tensor,
    prior: Tensor | None,
    batch: tuple[Tensor, Tensor | None],
) -> Terms:
    """`terms` with E|mu(dec(z)) - t|^2 of every member; 0 where there is no loss.

    `batch`: target and condition as the model takes them; `prior`: draws, None where no point
    takes them.
    """
    target, condition = batch
    level, rows = terms.levels[0], target.shape[-2]
    mean, drawn = level.mean[:, :, :rows], latent[:, :, :rows]
    z = torch.where(routing.from_draw, drawn, mean)
    # a stack's other members decode 0: nothing of theirs can overflow
    z = _toward_encoder(torch.where(routing.used, z, 0.0), routing.encoder_share)
    aim = torch.where(routing.to_mean, _toward_encoder(mean, routing.encoder_share), z)
    if prior is not None:
        z, aim = (torch.where(routing.from_prior, prior[:, None], value) for value in (z, aim))
    z = torch.where(routing.holds_input, z.detach(), z)
    aim = torch.where(routing.holds_target, aim.detach(), aim)
    back = model.re_encode(z, target, condition, routing.encoder_share)
    error = (back - aim).square().sum(-1).mean(-1)
    return replace(terms, latent_error=torch.where(routing.used[..., 0, 0], error, 0.0))


def aside(network: nn.Module, *inputs: Any, share: Tensor | None = None) -> Any:
    """network(*inputs) with `share` of the gradient of its parameters, its buffers left alone.

    `share` broadcasts against (n_seeds, n_points, 1, 1); None: all of it.
    """
    values: Mapping[str, Tensor] = dict(network.named_parameters())
    if share is not None:
        values = {name: _toward_encoder(p, _as_wide(share, p)) for name, p in values.items()}
    buffers = {name: b.clone() for name, b in network.named_buffers()}
    return functional_call(network, {**values, **buffers}, inputs)


def _toward_encoder(x: Tensor, share: Tensor) -> Tensor:
    """x itself, with `share` of its gradient."""
    return torch.lerp(x.detach(), x, share.to(x.dtype))


def _as_wide(share: Tensor, p: Tensor) -> Tensor:
    return share.reshape(*share.shape[:2], *[1] * (p.ndim - 2))
