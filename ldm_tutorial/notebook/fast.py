"""Pictures for the playground by the engine, where it computes the same as the model that is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..attention import record_inputs
from ..engine import Engine, missing, unsupported
from ..errors import UserError
from ..models import Models
from ..sampling import generators, initial_latents
from ..settings import Sampling


def state(models: Models) -> list[tuple[int, int]]:
    """Something that changes when the model gets other weights, or the weights other values."""
    counted = []
    for part in (models.text_encoder, models.unet, models.vae):
        for parameter in part.parameters():
            counted.append((id(parameter), parameter._version))
    return counted


@torch.no_grad()
def matching_engine(models: Models) -> Engine | None:
    """The engine of the folder that a model came from; None on a GPU, without exported graphs, and where the model has other
    weights by now: one answer of each network is compared."""
    folder = Path(str(models.unet.config.get("_name_or_path") or "")).parent
    if models.device.type != "cpu" or models.unet.dtype != torch.float32 or missing(folder):
        return None
    try:
        engine = Engine(folder)
    except UserError:
        return None
    z = initial_latents(models, generators([0]))
    text = models.encode_text(["a mug made of gold"])
    pairs = [
        (engine.encode_text(["a mug made of gold"]), text),
        (engine.predict(z.numpy(), 500, text.numpy()), models.unet(z, 500, encoder_hidden_states=text).sample),
        (engine.decode(z.numpy()), models.decode(z)),
    ]
    alike = all(ours.shape == tuple(theirs.shape) and np.allclose(ours, theirs, atol=1e-3) for ours, theirs in pairs)
    return engine if alike else None


class FastPictures:
    """Draws for a model: by its engine where there is one, and says by None where there is not."""

    def __init__(self, models: Models):
        self.models = models
        self.seen: list | None = None
        self.engine: Engine | None = None

    def draw(
        self, prompt: str, seed: int, sampling: Sampling, on_step: Callable
    ) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]] | None:
        """A picture uint8 [64, 64, 3], and what the U-Net was given at every fourth step: (timestep, latents [1, 8, 16, 16]).

        ``on_step`` sees step, timestep and latents after each step, as for :func:`sampling.sample_latents`.
        """
        now = state(self.models)
        if now != self.seen:
            self.engine, self.seen = matching_engine(self.models), now
        if self.engine is None or unsupported(sampling, self.engine.folder):
            return None
        given = [initial_latents(self.models, generators([seed])).numpy()]
        times = []

        def look(i: int, t: int, z: np.ndarray) -> None:
            given.append(z)
            times.append(t)
            on_step(i, t, torch.from_numpy(z))

        picture = self.engine.sample([prompt], [seed], sampling, on_step=look)[0]
        return picture, list(zip(times, given, strict=False))[::4]

    @torch.no_grad()
    def inputs(self, prompt: str, given: list[tuple[int, np.ndarray]]) -> dict:
        """What the layers of cross-attention are given in those steps, as :func:`attention.record_inputs` records it."""
        text = self.models.encode_text([prompt])
        with record_inputs(self.models.unet) as inputs:
            for t, z in given:
                self.models.unet(torch.from_numpy(z), t, encoder_hidden_states=text)
        return inputs
