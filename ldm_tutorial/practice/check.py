"""The checks by the names that the notebooks use: ``check.add_noise(your_add_noise)``."""

from .n03 import add_noise, forward_steps, noisy_variance

__all__ = ["add_noise", "forward_steps", "noisy_variance"]
