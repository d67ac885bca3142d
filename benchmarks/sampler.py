"""Our sampler against ``StableDiffusionPipeline.__call__``: same weights, prompts, steps, guidance and noise.

Ratios above 1 mean that ours is faster. ``--compiled 1`` adds our compiled mode (a minute or more to compile).
"""

from machine import compare, options, store

PROMPTS = ["an armchair made of avocado on a pink background", "a golden duck", "a zebra-striped teapot on grey", "a brick bed"]


def main() -> None:
    given = options(__doc__, steps=(20, "denoising steps"), pairs=(7, "timed pairs"), compiled=(0, "1: the compiled mode too"))
    steps, pairs = (2, 1) if given.quick else (given.steps, given.pairs)

    import torch
    from diffusers import StableDiffusionPipeline

    from ldm_tutorial.checkpoints import WEIGHTS, load_models
    from ldm_tutorial.sampling import compile_unet, decode_quickly, generators, sample_latents
    from ldm_tutorial.settings import Sampling

    models = load_models()
    pipe = StableDiffusionPipeline.from_pretrained(str(WEIGHTS)).to(models.device)
    pipe.set_progress_bar_config(disable=True)
    fast = compile_unet(models) if given.compiled else None
    figures: dict = {"steps": steps, "guidance_scale": 3.0}
    for batch in (1, 16):
        prompts, seeds = [PROMPTS[k % len(PROMPTS)] for k in range(batch)], list(range(batch))

        def ours(models=models, prompts=prompts, seeds=seeds):
            z = sample_latents(models, prompts, seeds, Sampling("ddim", steps, 3.0), progress=False)
            return (decode_quickly(models, z) / 2 + 0.5).clamp(0, 1)  # as `sample` does

        def theirs(prompts=prompts, seeds=seeds):
            how = {"num_inference_steps": steps, "guidance_scale": 3.0, "output_type": "pt"}
            return pipe(prompts, generator=generators(seeds), **how).images

        expected = theirs()
        apart = (ours() - expected).abs().max().item()
        assert apart < 1e-4, f"the pictures differ by {apart}"
        found = compare(ours, theirs, pairs)
        print(f"batch {batch}: {found['ratio']:.3f} times as fast as the pipeline, pictures equal to {apart:.0e}")
        figures[f"batch_{batch}"] = {**found, "largest_difference": apart}
        if fast:
            apart = (ours(fast) - expected).abs().max().item()
            assert apart < 1e-3, f"the compiled mode's pictures differ by {apart}"
            found = compare(lambda: ours(fast), theirs, pairs)
            print(f"batch {batch}, compiled: {found['ratio']:.3f} times as fast, pictures equal to {apart:.0e}")
            figures[f"batch_{batch}_compiled"] = {**found, "largest_difference": apart}
    torch.compiler.reset()
    store("sampler", figures, given.quick)


if __name__ == "__main__":
    main()
