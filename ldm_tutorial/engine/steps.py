"""The steps of two samplers in numpy, number for number those of diffusers' schedulers.

DDIM: Song et al. 2021, eq. 12 with sigma = 0. UniPC of order 2 with B(h) = exp(h) - 1: Zhao et al. 2023, algorithms 1 and 2.
"""

from __future__ import annotations

import numpy as np

from ..errors import UserError


def timesteps(config: dict, steps: int, ends: int) -> np.ndarray:
    """``steps`` timesteps, the noisiest first, spaced as the scheduler's configuration says (Lin et al. 2024, table 2).

    ``ends`` is 1 for solvers that count the end of the run as a step of its own, as UniPC does, and 0 for DDIM.
    """
    trained = config["num_train_timesteps"]
    spacing = config.get("timestep_spacing", "leading")
    if spacing == "trailing":
        found = np.arange(trained, 0, -trained / steps).round() - 1
    elif spacing == "leading":
        ratio = trained // (steps + ends)
        found = (np.arange(steps + ends) * ratio)[::-1][:steps] + config.get("steps_offset", 0)
    else:
        found = np.linspace(0, trained - 1, steps + ends).round()[::-1][:steps]
    return found.astype(np.int64)


class DDIM:
    """One deterministic DDIM step after the other."""

    def __init__(self, config: dict, alphas_cumprod: np.ndarray, steps: int):
        self.config = config
        self.alphas_cumprod = alphas_cumprod
        self.stride = config["num_train_timesteps"] // steps
        found = timesteps(config, steps, 0)
        self.timesteps = found[found >= 0]  # "trailing" rounds to one too many for 61 steps and some others: -1
        if self.timesteps[0] >= len(alphas_cumprod):
            raise UserError(f"{steps} steps would begin at timestep {self.timesteps[0]} of {len(alphas_cumprod)}: give fewer.")
        self.last_alpha = np.float32(1) if config.get("set_alpha_to_one", True) else alphas_cumprod[0]

    def step(self, i: int, predicted: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Noisy latents at timestep number ``i`` and the U-Net's prediction for them -> the latents one step less noisy."""
        t = self.timesteps[i]
        alpha = self.alphas_cumprod[t]
        before = t - self.stride
        alpha_before = self.alphas_cumprod[before] if before >= 0 else self.last_alpha
        clean = predict_clean(self.config, predicted, z, np.sqrt(alpha), np.sqrt(1 - alpha))
        kind = self.config.get("prediction_type", "epsilon")
        if kind == "epsilon":
            noise = predicted
        elif kind == "v_prediction":
            noise = np.sqrt(alpha) * predicted + np.sqrt(1 - alpha) * z
        else:
            noise = (z - np.sqrt(alpha) * clean) / np.sqrt(1 - alpha)
        if self.config.get("clip_sample"):
            limit = self.config.get("clip_sample_range", 1)
            clean = clean.clip(-limit, limit)
        return np.sqrt(alpha_before) * clean + np.sqrt(1 - alpha_before) * noise


class UniPC:
    """UniPC of order 2: each step is predicted from two answers, and corrected by the next one."""

    def __init__(self, config: dict, alphas_cumprod: np.ndarray, steps: int):
        self.config = config
        self.timesteps = timesteps(config, steps, 1)
        alphas = alphas_cumprod.copy()
        if config.get("rescale_betas_zero_snr"):
            alphas[-1] = 2.0**-24  # no signal at all would be an infinite sigma
        every = np.sqrt((1 - alphas) / alphas)
        sigmas = np.interp(self.timesteps, np.arange(len(every)), every)
        self.sigmas = np.append(sigmas, 0).astype(np.float32)
        self.not_corrected = config.get("disable_corrector", [])
        self.clean: list[np.ndarray] = []  # what each step took the clean latents for
        self.start = np.zeros(0)  # the latents that the last step started from
        self.order = 0

    def step(self, i: int, predicted: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Noisy latents at timestep number ``i`` and the U-Net's prediction for them -> the latents one step less noisy."""
        alpha, sigma = self._alpha_sigma(i)
        clean = predict_clean(self.config, predicted, z, alpha, sigma)
        if i > 0 and i - 1 not in self.not_corrected:
            z = self._update(i - 1, self.start, self.clean, self.order, clean)
        self.clean.append(clean)
        self.start = z
        self.order = min(2, len(self.timesteps) - i, i + 1)  # order 1 at both ends
        return self._update(i, z, self.clean, self.order)

    def _alpha_sigma(self, i: int) -> tuple[np.float32, np.float32]:
        alpha = 1 / np.sqrt(self.sigmas[i] ** 2 + 1)
        return alpha, self.sigmas[i] * alpha

    def _log_snr(self, i: int) -> np.float32:
        with np.errstate(divide="ignore"):  # at the end there is no noise: infinite
            alpha, sigma = self._alpha_sigma(i)
            return np.log(alpha) - np.log(sigma)

    def _update(self, i: int, z: np.ndarray, clean: list, order: int, corrected_by: np.ndarray | None = None) -> np.ndarray:
        """From step i to i + 1: predicted from the answers so far, or corrected by the answer at i + 1."""
        alpha, sigma = self._alpha_sigma(i + 1)
        _, sigma_before = self._alpha_sigma(i)
        h = self._log_snr(i + 1) - self._log_snr(i)
        shrink = np.expm1(-h)
        change = np.zeros_like(z)
        ratio = np.float32(1)
        if order == 2:
            ratio = (self._log_snr(i - 1) - self._log_snr(i)) / h
            slope = (clean[i - 1] - clean[i]) / ratio
        if corrected_by is None:
            if order == 2:
                change = np.float32(0.5) * slope
        else:
            rise = corrected_by - clean[i]
            if order == 1:
                change = np.float32(0.5) * rise
            else:
                old, new = _corrector_weights(ratio, h)
                change = old * slope + new * rise
        moved = sigma / sigma_before * z - alpha * shrink * clean[i]
        return (moved - alpha * shrink * change).astype(np.float32)


def _corrector_weights(ratio: np.float32, h: np.float32) -> np.ndarray:
    """The two weights that make UniC exact to second order (Zhao et al. 2023, eq. 5)."""
    shrink = np.expm1(-h)
    first = shrink / -h - 1
    second = first / -h - np.float32(0.5)
    conditions = np.array([[1, 1], [ratio, 1]], np.float32)
    return np.linalg.solve(conditions, np.array([first / shrink, 2 * second / shrink], np.float32))


def predict_clean(config: dict, predicted: np.ndarray, z: np.ndarray, alpha, sigma) -> np.ndarray:
    """The clean latents that a prediction stands for, at signal ``alpha`` and noise ``sigma`` (both square roots)."""
    kind = config.get("prediction_type", "epsilon")
    if kind == "epsilon":
        return (z - sigma * predicted) / alpha
    if kind == "v_prediction":
        return alpha * z - sigma * predicted
    return predicted


SAMPLERS: dict[str, type[DDIM] | type[UniPC]] = {"ddim": DDIM, "unipc": UniPC}
