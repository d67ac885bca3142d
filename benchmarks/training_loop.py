"""``training.fit`` against a bare forward-backward-optimizer loop, and cached latents against encoding in each step.

The bare loop has neither averaging, nor clipping, nor drawing, nor a look at the loss. Both train the shipped U-Net's
architecture, one step of each in turn, in one process.
"""

import tempfile

from machine import clock, options, store, summary


def main() -> None:
    given = options(__doc__, steps=(12, "timed steps of each"), batch=(64, "pictures a step"))
    steps, batch = (2, 8) if given.quick else (given.steps, given.batch)

    import copy

    import torch

    from ldm_tutorial.checkpoints import load_models
    from ldm_tutorial.diffusion import DiffusionLoss
    from ldm_tutorial.training import Recipe, fit

    models = load_models()
    device = models.device
    models.unet.requires_grad_(True)
    images = torch.randn(256, 3, 64, 64).clamp(-1, 1)
    latents, text = torch.randn(256, 8, 16, 16), models.encode_text(["a golden duck"]).cpu()
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)  # as fit does

    def sample_batch(g: torch.Generator, encode: bool = False) -> dict:
        rows = torch.randint(256, (batch,), generator=g)
        noise, timesteps = torch.randn(batch, 8, 16, 16, generator=g), torch.randint(1000, (batch,), generator=g)
        z = models.encode(images[rows]).cpu() if encode else latents[rows]
        return {"latents": z, "noise": noise, "timesteps": timesteps, "encoder_hidden_states": text.expand(batch, -1, -1)}

    bare = DiffusionLoss(copy.deepcopy(models.unet), models.scheduler).to(device).train()
    optimizer = torch.optim.AdamW(bare.parameters(), lr=1e-4)
    rows = {k: v.to(device) for k, v in sample_batch(torch.Generator()).items()}

    def bare_step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = bare(**rows)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def measure(other, encode: bool = False) -> dict:
        """Times a step of fit, then ``other``, in turn: all that fit does between two calls of on_step is its own."""
        ours, theirs, mark = [], [], 0.0

        def on_step(step: int, _: float) -> None:
            nonlocal mark
            now = clock()
            if step >= 2:  # the first two warm up
                ours.append(now - mark)
            start = clock()
            other()
            mark = clock()
            if step >= 2:
                theirs.append(mark - start)

        loss = DiffusionLoss(copy.deepcopy(models.unet), models.scheduler).to(device)
        with tempfile.TemporaryDirectory() as folder:
            recipe = Recipe(steps + 2, batch, 1e-4)
            fit("bench", loss, lambda g: sample_batch(g, encode), recipe, folder, on_step, progress=False)
        return summary(ours, theirs)

    loop = measure(bare_step)
    encoding = measure(bare_step, encode=True)
    times = encoding["seconds_ours"] / loop["seconds_ours"]
    print(
        f"fit makes {loop['ratio']:.3f} of a bare loop's steps per second (batch {batch}, {loop['seconds_ours']:.2f} s a step)"
    )
    print(f"with cached latents {times:.2f} times as fast as encoding each step")
    figures = {"batch": batch, "steps": steps, "fit_against_bare": loop, "cached_latents_times_faster": times}
    store("training_loop", {**figures, "encoding_against_bare": encoding}, given.quick)


if __name__ == "__main__":
    main()
