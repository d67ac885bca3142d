"""A small, complete text-to-image latent diffusion model, to learn from. Importing this name alone stays light."""

__version__ = "0.1.0"
