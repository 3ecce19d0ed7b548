"""The experiments of Dang, Tran, Nguyen & Ho (ICLR 2024), each as predicted against observed.

    python -m analysis.dang [EXPERIMENT ...] [--data-dir DIR] [--out DIR] [--full] [--draw]

| experiment  | question                                                                          |
|-------------|-----------------------------------------------------------------------------------|
| cvae        | conditional VAE, quarter of an image to the rest: beta and decoder variance       |
| hierarchy   | two levels, the first encoder variance fixed: beta_1, beta_2, decoder variance    |
| digits      | conditional VAE of each class of images alone: which class collapses most         |
| correlation | target and condition of correlation a: collapse as the condition says more        |
| variances   | learned against fixed encoder variances, one level and two                        |

**Which beta.** Everywhere the weight of the KL divergence in nats beside |y - g|^2/(2 s): that of
the published theory and linear scripts. The published nonlinear scripts halve the KL divergence and
not the squared error, so that their beta is twice ours (`linvae.models.presets`).

**Which units.** Published settings are for images of 28 x 28 pixels. Smaller ones average areas,
which keeps the variance of a pixel and divides their number, so every variance of the data space is
multiplied by `pixels/784`; sweeps are in the published units. Latents are in units of their
prior deviation: an exact change of variables, so that a published sigma_1 is divided by that of
p(z_1|z_2). Data are centred, the published ones are not: a mean costs their models one mode.
"""

from __future__ import annotations

NAMES = ("cvae", "hierarchy", "digits", "correlation", "variances")
