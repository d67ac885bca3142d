"""Diffusion on latents against diffusion on pixels: the baselines `latent` and `pixel`, with equally many parameters.

Training and sampling are timed in turn, in one process; pictures come from the shipped baselines, both of which were trained
for the same time. To beat: 2.7 times the throughput with a distance 1.6 times better (Rombach et al. 2022, section 4.5).
"""

from machine import compare, options, store


def main() -> None:
    given = options(
        __doc__,
        pictures=(512, "pictures of each for the Fréchet distance"),
        steps=(50, "denoising steps"),
        pairs=(7, "timed pairs"),
    )
    n, steps, pairs = (8, 2, 1) if given.quick else (given.pictures, given.steps, given.pairs)

    import torch

    from ldm_tutorial.baselines import build, load_baseline, training_curve
    from ldm_tutorial.checkpoints import load_models
    from ldm_tutorial.diffusion import DiffusionLoss, build_scheduler
    from ldm_tutorial.images import to_picture
    from ldm_tutorial.measure.judge import load_judge, predict_with_features
    from ldm_tutorial.measure.metrics import frechet_distance
    from ldm_tutorial.measure.pictures import expected_prompts, renders

    models = load_models()
    device, batch = models.device, 4 if given.quick else 32
    autoencoder = training_curve("latent").get("autoencoder", "shipped")  # whose latents `latent` learned
    vae = models.vae if autoencoder == "shipped" else load_baseline(autoencoder, device)
    kinds = ("latent", "pixel")

    def training_step(kind: str):
        loss = DiffusionLoss(build(kind), build_scheduler()).to(device).train()
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
        scheduler = build_scheduler()
        scheduler.set_timesteps(steps)
        c = unet.config
        noise = torch.randn(count, c.in_channels, c.sample_size, c.sample_size, generator=torch.Generator().manual_seed(seed))
        z = noise.to(device)
        for t in scheduler.timesteps:
            z = scheduler.step(unet(z, t).sample, t, z).prev_sample
        if kind == "latent":
            z = vae.decode(z / vae.config.scaling_factor).sample
        return to_picture(z)

    figures: dict = {"batch": batch, "sampling_steps": steps, "pictures": n}
    training = compare(training_step("latent"), training_step("pixel"), pairs)
    unets = {kind: load_baseline(kind, device) for kind in kinds}
    figures["parameters"] = {kind: unet.num_parameters() for kind, unet in unets.items()}
    figures["training_seconds"] = {kind: training_curve(kind)["seconds"] for kind in kinds}
    few, times = (4, 1) if given.quick else (16, 3)
    sampling = compare(*(lambda kind=kind: draw(kind, unets[kind], few) for kind in kinds), times)
    figures |= {"training": training, "sampling": sampling}

    judge, wanted = load_judge(), expected_prompts("train", n)
    real = predict_with_features(judge, renders(wanted, seed=91)[0])[1]
    for kind in kinds:
        pictures = torch.cat([draw(kind, unets[kind], min(32, n - i), seed=i) for i in range(0, n, 32)])
        figures[f"frechet_{kind}"] = frechet_distance(predict_with_features(judge, pictures)[1], real)
    figures["frechet_times_better"] = figures["frechet_pixel"] / figures["frechet_latent"]
    print(f"on latents, training is {training['ratio']:.2f} times as fast, sampling {sampling['ratio']:.2f} times")
    print(f"parameters {figures['parameters']}, seconds of training {figures['training_seconds']}")
    print(f"Fréchet distance: latent {figures['frechet_latent']:.2f}, pixel {figures['frechet_pixel']:.2f} ", end="")
    print(f"({figures['frechet_times_better']:.2f} times better, {n} pictures each)")
    store("latent_vs_pixel", figures, given.quick)


if __name__ == "__main__":
    main()
