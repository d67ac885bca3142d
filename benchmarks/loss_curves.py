"""Healthy and broken trainings of one small U-Net, each really run: docs/losses.png for the page docs/losses.md."""

import tempfile

from machine import ROOT, options, store

STEPS, BATCH, PICTURES = 120, 32, 1024


def main() -> None:
    steps = 4 if options(__doc__).quick else STEPS

    import matplotlib.pyplot as plt
    import numpy as np
    import torch

    from ldm_tutorial.baselines import scheduler_of
    from ldm_tutorial.baselines.networks import build_small_unet
    from ldm_tutorial.checkpoints import load_models
    from ldm_tutorial.curios import Curios
    from ldm_tutorial.diffusion import DiffusionLoss
    from ldm_tutorial.images import to_model
    from ldm_tutorial.notebook.figures import COLORS, png, style
    from ldm_tutorial.training import Recipe, fit

    models = load_models()
    images = Curios("train", PICTURES).images
    latents = torch.cat([models.encode(to_model(x)).cpu() for x in images.split(64)])

    class AnotherNoise(DiffusionLoss):
        """The target is other noise than what was added: nothing can be learned."""

        def forward(self, latents, noise, timesteps):
            noisy = self.scheduler.add_noise(latents, noise, timesteps)
            return (self.unet(noisy, timesteps).sample - noise.roll(1, 0)).square().mean()

    def run(lr=2e-3, scale=1.0, kind=DiffusionLoss, rows=PICTURES, limit=1.0) -> list[float]:
        torch.manual_seed(0)
        unet = build_small_unet(16, 8, (32, 64), attention=False)  # notebook 04's
        loss = kind(unet, scheduler_of("unet-skips"))
        recipe = Recipe(steps, BATCH, lr, warmup=min(20, steps), max_grad_norm=limit)

        def sample_batch(g):
            z = scale * latents[torch.randint(rows, (BATCH,), generator=g)]
            timesteps = torch.randint(1000, (BATCH,), generator=g)
            return {"latents": z, "noise": torch.randn(z.shape, generator=g), "timesteps": timesteps}

        with tempfile.TemporaryDirectory() as folder:
            return fit("curve", loss, sample_batch, recipe, folder, progress=False).tolist()

    cases = {
        "healthy": {},
        "learning rate 50 times too high": {"lr": 0.1, "limit": 1e9},
        "learning rate 100 times too low": {"lr": 2e-5},
        "scale factor forgotten: latents 5 times too large": {"scale": 5.0},
        "target is not the noise that was added": {"kind": AnotherNoise},
        "eight pictures instead of a thousand": {"rows": 8},
    }
    curves = {name: run(**how) for name, how in cases.items()}
    style()
    figure, axes = plt.subplots(2, 3, figsize=(11, 5), layout="constrained", sharex=True, sharey=True)
    smooth = lambda c: np.convolve(c, np.ones(k := min(9, len(c))) / k, "valid")  # noqa: E731
    for axis, (name, curve) in zip(axes.flat, curves.items(), strict=True):
        axis.plot(smooth(curves["healthy"]), color="0.7", linewidth=2, label="healthy")
        if name != "healthy":
            axis.plot(smooth(curve), color=COLORS["red"], linewidth=2, label="this run")
        axis.set(title=name, ylim=(0, 1.6))
        axis.title.set_fontsize(10)
    for axis in axes[1]:
        axis.set_xlabel("step")
    for axis in axes[:, 0]:
        axis.set_ylabel("loss (noise)")
    axes[0, 1].legend()
    last = {name: sum(c[-20:]) / len(c[-20:]) for name, c in curves.items()}
    for name, value in last.items():
        print(f"{name:52s} {value:8.3f}")
    if steps == STEPS:
        (ROOT / "docs" / "losses.png").write_bytes(png(figure))
    store("loss_curves", {"steps": steps, "last_20_steps": last}, quick=steps < STEPS)


if __name__ == "__main__":
    main()
