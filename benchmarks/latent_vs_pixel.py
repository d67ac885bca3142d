"""Diffusion on latents against diffusion on pixels: the companions `latent` and `pixel`, with equally many parameters.

Training and sampling are timed in turn, in one process; pictures come from the shipped companions, both of which were trained
for the same time: the training of `vae-diverse`, whose latents they are, is counted for `latent`. To beat: 2.7 times
the throughput with a distance 1.6 times better (Rombach et al. 2022, section 4.5).
"""

from machine import compare, options, store


def main() -> None:
    given = options(
        __doc__,
        pictures=(512, "pictures of each for the kernel distance"),
        steps=(50, "denoising steps"),
        pairs=(7, "timed pairs"),
    )
    n, steps, pairs = (8, 2, 1) if given.quick else (given.pictures, given.steps, given.pairs)

    import torch

    from ldm_tutorial.companions import UnconditionalLoss, build, curve, load_companion, scheduler_of
    from ldm_tutorial.curios import to_picture
    from ldm_tutorial.evaluation import examine, kernel_distance, load_judge, renders, wishes
    from ldm_tutorial.models import default_device

    device, batch = default_device(), 4 if given.quick else 32
    autoencoder = load_companion("vae-diverse", device)
    kinds = ("latent", "pixel")

    def training_step(kind: str):
        loss = UnconditionalLoss(build(kind), scheduler_of(kind)).to(device).train()
        optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-4)
        c = loss.unet.config
        rows = torch.randn(2, batch, c.in_channels, c.sample_size, c.sample_size, device=device)
        timesteps = torch.randint(1000, (batch,), device=device)

        def step() -> None:
            loss(rows[0], rows[1], timesteps).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    @torch.no_grad()
    def draw(kind: str, unet, count: int, seed: int = 0) -> torch.Tensor:
        """Pictures uint8 [count, 64, 64, 3] by DDIM, without any text."""
        scheduler = scheduler_of(kind)
        scheduler.set_timesteps(steps)
        c = unet.config
        noise = torch.randn(count, c.in_channels, c.sample_size, c.sample_size, generator=torch.Generator().manual_seed(seed))
        z = noise.to(device)
        for t in scheduler.timesteps:
            z = scheduler.step(unet(z, t).sample, t, z).prev_sample
        if kind == "latent":
            z = autoencoder.decode(z / autoencoder.config.scaling_factor).sample
        return to_picture(z)

    figures: dict = {"batch": batch, "sampling_steps": steps, "pictures": n}
    training = compare(training_step("latent"), training_step("pixel"), pairs)
    unets = {kind: load_companion(kind, device) for kind in kinds}
    figures["parameters"] = {kind: unet.num_parameters() for kind, unet in unets.items()}
    figures["training_seconds"] = {}
    for kind in kinds:  # for `latent` its autoencoder's training and the encoding as well
        record = curve(kind)
        figures["training_seconds"][kind] = sum(value for key, value in record.items() if key.endswith("seconds"))
    few, times = (4, 1) if given.quick else (16, 3)
    sampling = compare(*(lambda kind=kind: draw(kind, unets[kind], few) for kind in kinds), times)
    figures |= {"training": training, "sampling": sampling}

    judge, wanted = load_judge(), wishes("train", n)
    real = examine(judge, renders(wanted, seed=91)[0])[1]
    for kind in kinds:
        pictures = torch.cat([draw(kind, unets[kind], min(32, n - i), seed=i) for i in range(0, n, 32)])
        figures[f"kid_{kind}"] = kernel_distance(examine(judge, pictures)[1], real)
    print(f"on latents, training is {training['ratio']:.2f} times as fast, sampling {sampling['ratio']:.2f} times")
    print(f"parameters {figures['parameters']}, seconds of training {figures['training_seconds']}")
    for kind in kinds:
        kid = figures[f"kid_{kind}"]
        print(f"kernel distance of {kind}: {kid['value']:.3g} ({kid['low']:.3g} to {kid['high']:.3g}; {n} pictures)")
    store("latent_vs_pixel", figures, given.quick)


if __name__ == "__main__":
    main()
