"""The autoencoder: pixels to latents and back (notebook 02).

The class is diffusers' ``AutoencoderKL``. Kingma and Welling 2014, *Auto-encoding variational Bayes*; Rombach et al. 2022.
"""

from __future__ import annotations

from diffusers import AutoencoderKL
from torch import Tensor, nn


def build_vae(latent_channels: int = 8, channels: tuple[int, ...] = (16, 32, 64), resolution: int = 64) -> AutoencoderKL:
    """An autoencoder 3 x 64 x 64 <-> ``latent_channels`` x 16 x 16. Each further entry of ``channels`` halves the side.

    Stable Diffusion's has self-attention in the middle as well; this one is without (``mid_block_add_attention=False``).
    """
    n = len(channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * n,
        up_block_types=("UpDecoderBlock2D",) * n,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=1,  # in groups of few channels, brightness and colour would be normalised away
        sample_size=resolution,
        mid_block_add_attention=False,
    )


class VAELoss(nn.Module):
    """|x - x'| + (x - x')^2 + weight * KL(q(z|x) || N(0, 1)) (Kingma and Welling 2014, eq. 10, with its appendix B).

    Both errors are means over the pixels. ``edge_weight`` adds the mean absolute error of the differences between
    neighbouring pixels, along both axes (compare Mathieu, Couprie and LeCun 2016, eq. 6): textures are learned sooner.
    """

    def __init__(self, vae: AutoencoderKL, kl_weight: float = 1e-6, edge_weight: float = 0.0):
        super().__init__()
        self.vae = vae
        self.kl_weight = kl_weight
        self.edge_weight = edge_weight

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in -1..1 and noise N(0, 1) of the latents' shape -> the loss, a scalar."""
        posterior = self.vae.encode(images).latent_dist
        latents = posterior.mean + posterior.std * noise  # the reparameterisation
        error = self.vae.decode(latents).sample - images
        loss = error.abs().mean() + error.square().mean()
        loss = loss + self.kl_weight * posterior.kl().mean()
        if self.edge_weight:
            edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
            loss = loss + self.edge_weight * edges
        return loss
