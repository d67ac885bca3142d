"""The checks by the names that the notebooks use: ``check.add_noise(your_add_noise)``."""

from .n00 import distance_to_go, how_often, my_object, text_to_image, unknown_to_it
from .n01 import mean_picture, megabytes, my_material, normalise, read_folder
from .n02 import kl, noisy_picture, psnr, ruined_picture, split
from .n03 import add_noise, forward_steps, hidden_strength, noisy_variance, training_batches
from .n04 import from_v, learned_numbers, sinusoidal_embedding, train, validation_loss
from .n05 import ddim_step, my_timesteps, paired_difference, repeatable, sample
from .n06 import attention, causal_weights, long_prompt, margin_test, merge_pair
from .n07 import contrastive_loss, first_loss, recall_at_k, search, zero_shot
from .n08 import cross_attention, drop_captions, exchanged_tokens, many_heads, misleading
from .n09 import guide, guide_in_interval, interval, noise_for, steered_away
from .n10 import keep_outside, learned_by_lora, lora, my_pictures, start_of_edit

__all__ = ["distance_to_go", "how_often", "my_object", "text_to_image", "unknown_to_it"]
__all__ += ["mean_picture", "megabytes", "my_material", "normalise", "read_folder"]
__all__ += ["kl", "noisy_picture", "psnr", "ruined_picture", "split"]
__all__ += ["add_noise", "forward_steps", "hidden_strength", "noisy_variance", "training_batches"]
__all__ += ["from_v", "learned_numbers", "sinusoidal_embedding", "train", "validation_loss"]
__all__ += ["ddim_step", "my_timesteps", "paired_difference", "repeatable", "sample"]
__all__ += ["attention", "causal_weights", "long_prompt", "margin_test", "merge_pair"]
__all__ += ["contrastive_loss", "first_loss", "recall_at_k", "search", "zero_shot"]
__all__ += ["cross_attention", "drop_captions", "exchanged_tokens", "many_heads", "misleading"]
__all__ += ["guide", "guide_in_interval", "interval", "noise_for", "steered_away"]
__all__ += ["keep_outside", "learned_by_lora", "lora", "my_pictures", "start_of_edit"]
