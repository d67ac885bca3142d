"""What a picture costs, here and in Stable Diffusion 1.5: parameters, FLOPs, and for the course's model seconds and memory.

FLOPs are counted by torch.utils.flop_counter (a multiplication and an addition are two); Stable Diffusion's models are
built from their published configurations without any memory (the "meta" device), so they are counted and never run.
docs/scale.md goes on from here to what the whole training costs.
"""

import resource
import sys

from machine import options, seconds, store

SD_UNET = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2, "cross_attention_dim": 768, "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}  # fmt: skip
SD_VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, "sample_size": 512,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
SD_TEXT = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "max_position_embeddings": 77, "eos_token_id": 49407, "bos_token_id": 49406, "pad_token_id": 49407,
}  # fmt: skip


def flops(work) -> int:
    """Floating-point operations of what ``work`` does."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def cost(vae, unet, text_encoder, side: int, factor: int) -> dict:
    """Parameters, and FLOPs for one picture of ``side`` x ``side`` pixels, on the device that the models are on."""
    import torch

    device = unet.device
    pixels = torch.zeros(1, 3, side, side, device=device)
    z = torch.zeros(1, unet.config.in_channels, side // factor, side // factor, device=device)
    ids, t = torch.zeros(1, 77, dtype=torch.long, device=device), torch.zeros(1, dtype=torch.long, device=device)
    text = torch.zeros(1, 77, unet.config.cross_attention_dim, device=device)
    with torch.no_grad():
        found = {
            "text": flops(lambda: text_encoder(ids)),
            "encode": flops(lambda: vae.encode(pixels).latent_dist.mode()),
            "decode": flops(lambda: vae.decode(z)),
            "unet": flops(lambda: unet(z, t, text)),
        }
    unet.requires_grad_(True)
    found["unet_forward_and_backward"] = flops(lambda: unet(z, t, text).sample.mean().backward())
    found["draw_20_guided_steps"] = 2 * found["text"] + 40 * found["unet"] + found["decode"]
    parts = {"vae": vae, "unet": unet, "text_encoder": text_encoder}
    return {"side": side, "parameters": {k: sum(p.numel() for p in m.parameters()) for k, m in parts.items()}, "flops": found}


def peak() -> int:
    """Bytes: the most that the GPU held, or else this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    given = options(__doc__, batch=(16, "pictures a training step"), times=(5, "timed steps"))
    batch, times = (2, 1) if given.quick else (given.batch, given.times)

    from statistics import median

    import torch
    from accelerate import PartialState
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from ldm_tutorial.autoencoder import VAELoss
    from ldm_tutorial.checkpoints import load_models
    from ldm_tutorial.diffusion import DiffusionLoss
    from ldm_tutorial.sampling import sample

    models = load_models()
    loaded, c = peak(), models.unet.config
    sample(models, ["a golden duck"], [0], steps=20, progress=False)  # warm up
    drawing = median(seconds(lambda: sample(models, ["a golden duck"], [0], steps=20, progress=False)) for _ in range(times))
    drawn = peak()
    side = c.sample_size * 4
    ours = cost(models.vae, models.unet, models.text_encoder, side, 4)

    def step_of(loss, rows: dict):
        loss.requires_grad_(True).to(models.device).train()
        optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-5)

        def step() -> None:
            loss(**{k: v.to(models.device) for k, v in rows.items()}).backward()
            optimizer.step()
            optimizer.zero_grad()

        step()  # warm up
        return median(seconds(step) for _ in range(times)) / batch

    shape = batch, c.in_channels, c.sample_size, c.sample_size
    rows = {
        "latents": torch.randn(shape), "noise": torch.randn(shape), "timesteps": torch.randint(1000, (batch,)),
        "input_ids": models.tokenize(["a golden duck"] * batch),
    }  # fmt: skip
    training = {"unet_and_text_encoder": step_of(DiffusionLoss(models.unet, models.scheduler, models.text_encoder), rows)}
    images = {"images": torch.rand(batch, 3, side, side) * 2 - 1, "noise": torch.randn(shape)}
    training["vae"] = step_of(VAELoss(models.vae), images)

    with torch.device("meta"):
        vae, unet = AutoencoderKL(**SD_VAE), UNet2DConditionModel(**SD_UNET)
        text = CLIPTextModel(CLIPTextConfig(**SD_TEXT))
        theirs = {f"stable_diffusion_{n}": cost(vae, unet, text, n, 8) for n in (256, 512)}
    figures = {
        "processes": PartialState().num_processes,
        "batch": batch,
        "course": ours,
        **theirs,
        "seconds_a_picture": {"training": training, "drawing_20_guided_steps": drawing},
        "peak_bytes": {"models_loaded": loaded, "drawing": drawn, "training": peak()},
    }
    path = store("scale", figures, given.quick)
    for name in ("course", *theirs):
        found = figures[name]
        millions = ", ".join(f"{part} {n / 1e6:,.2f} M" for part, n in found["parameters"].items())
        giga = ", ".join(f"{part} {n / 1e9:,.3f}" for part, n in found["flops"].items())
        print(f"{name}, {found['side']} x {found['side']}: {millions}; GFLOPs a picture: {giga}")
    print(f"the course's model: {drawing:.2f} s to draw one picture; a picture in a training step: ", end="")
    print(", ".join(f"{part} {1000 * s:.0f} ms" for part, s in training.items()))
    print(f"peak memory {drawn / 1e9:.2f} GB drawing, {peak() / 1e9:.2f} GB training with batch {batch}; wrote {path}")


if __name__ == "__main__":
    main()
