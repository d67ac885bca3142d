"""Diffusion: the noise schedule, the U-Net that undoes it, and the loss that teaches the U-Net (notebooks 03, 04 and 08).

The classes are diffusers' ``DDIMScheduler`` and ``UNet2DConditionModel``. Ho, Jain and Abbeel 2020, *Denoising diffusion
probabilistic models*; Rombach et al. 2022.
"""

from __future__ import annotations

import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn


def build_scheduler(prediction_type: str = "v_prediction") -> DDIMScheduler:
    """1,000 timesteps on the cosine schedule (Nichol and Dhariwal 2021, eq. 17).

    The U-Net predicts v (Salimans and Ho 2022) or, with "epsilon", the noise. Sampling steps are counted from the noisiest
    end ("trailing"; Lin et al. 2024).
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction_type,
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
        steps_offset=1,
    )


def build_unet(
    latent_channels: int = 8, channels: tuple[int, ...] = (64, 128), text_width: int = 128, sample_size: int = 16
) -> UNet2DConditionModel:
    """A U-Net on 16 x 16 latents: residual blocks at 16 x 16, residual blocks with self- and cross-attention at 8 x 8."""
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=4,  # diffusers' name for the number of heads
        norm_num_groups=16,
    )


class DiffusionLoss(nn.Module):
    """Mean squared error of the U-Net's prediction, with a text or without.

    The scheduler says what is predicted: the noise ("epsilon"; Ho et al. 2020, eq. 14), or
    v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) latents (Salimans and Ho 2022). The text comes as
    ``encoder_hidden_states`` [B, 77, 128], as ``input_ids`` [B, 77] of a ``text_encoder`` that learns too, or not at all (a
    U-Net without cross-attention).
    """

    def __init__(self, unet: nn.Module, scheduler, text_encoder: nn.Module | None = None):
        super().__init__()
        self.unet = unet
        self.scheduler = scheduler
        self.text_encoder = text_encoder

    def forward(
        self,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        encoder_hidden_states: Tensor | None = None,
        input_ids: Tensor | None = None,
    ) -> Tensor:
        """Clean latents [B, C, H, W], noise N(0, 1) of the same shape, timesteps [B] -> the loss, a scalar."""
        if self.text_encoder is not None:
            encoder_hidden_states = self.text_encoder(input_ids)[0]
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = noise
        if self.scheduler.config.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(latents, noise, timesteps)
        text = {} if encoder_hidden_states is None else {"encoder_hidden_states": encoder_hidden_states}
        return F.mse_loss(self.unet(noisy, timesteps, **text).sample, target)
