"""The checks by the names that the notebooks use: ``check.add_noise(your_add_noise)``."""

from .n00 import how_often, text_to_image, unknown_to_it
from .n01 import mean_picture, megabytes, my_material, normalise
from .n02 import kl, psnr, ruined_picture
from .n03 import add_noise, forward_steps, noisy_variance
from .n04 import learned_numbers, sinusoidal_embedding, train
from .n05 import ddim_step, paired_difference, sample
from .n06 import attention, long_prompt, merge_pair
from .n07 import contrastive_loss, first_loss, search
from .n08 import cross_attention, drop_captions, exchanged_tokens
from .n09 import guide, interval, noise_for
from .n10 import keep_outside, learned_by_lora, lora

__all__ = ["how_often", "text_to_image", "unknown_to_it"]
__all__ += ["mean_picture", "megabytes", "my_material", "normalise"]
__all__ += ["kl", "psnr", "ruined_picture"]
__all__ += ["add_noise", "forward_steps", "noisy_variance"]
__all__ += ["learned_numbers", "sinusoidal_embedding", "train"]
__all__ += ["ddim_step", "paired_difference", "sample"]
__all__ += ["attention", "long_prompt", "merge_pair"]
__all__ += ["contrastive_loss", "first_loss", "search"]
__all__ += ["cross_attention", "drop_captions", "exchanged_tokens"]
__all__ += ["guide", "interval", "noise_for"]
__all__ += ["keep_outside", "learned_by_lora", "lora"]
