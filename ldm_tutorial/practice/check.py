"""The checks by the names that the notebooks use: ``check.add_noise(your_add_noise)``."""

from .n00 import distance_to_go, how_often, my_object, text_to_image, unknown_to_it
from .n01 import mean_picture, megabytes, my_material, normalise, read_folder
from .n02 import kl, noisy_picture, psnr, ruined_picture, split
from .n03 import add_noise, forward_steps, hidden_strength, noisy_variance, training_batches
from .n04 import from_v, learned_numbers, sinusoidal_embedding, train, validation_loss
from .n05 import ddim_step, my_timesteps, paired_difference, repeatable, sample
from .n06 import attention, long_prompt, merge_pair
from .n07 import contrastive_loss, first_loss, search
from .n08 import cross_attention, drop_captions, exchanged_tokens
from .n09 import guide, interval, noise_for
from .n10 import keep_outside, learned_by_lora, lora

__all__ = ["distance_to_go", "how_often", "my_object", "text_to_image", "unknown_to_it"]
__all__ += ["mean_picture", "megabytes", "my_material", "normalise", "read_folder"]
__all__ += ["kl", "noisy_picture", "psnr", "ruined_picture", "split"]
__all__ += ["add_noise", "forward_steps", "hidden_strength", "noisy_variance", "training_batches"]
__all__ += ["from_v", "learned_numbers", "sinusoidal_embedding", "train", "validation_loss"]
__all__ += ["ddim_step", "my_timesteps", "paired_difference", "repeatable", "sample"]
__all__ += ["attention", "long_prompt", "merge_pair"]
__all__ += ["contrastive_loss", "first_loss", "search"]
__all__ += ["cross_attention", "drop_captions", "exchanged_tokens"]
__all__ += ["guide", "interval", "noise_for"]
__all__ += ["keep_outside", "learned_by_lora", "lora"]
