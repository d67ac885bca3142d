"""The table of the model card: what each number means, and the goal that it should reach."""

from __future__ import annotations

# what each key means and the value to reach; "<=" where smaller is better
GOALS = {
    "psnr": ("reconstruction of validation renders, dB", ">=", 30),
    "prompt_trained": ("object and material right, trained pairs", ">=", 0.995),
    "prompt_heldout": ("object and material right, held-out pairs", ">=", 0.99),
    "avocado_armchair": ("avocado armchairs", ">=", 0.99),
    "article_prompt": ("the article's own prompt", ">=", 0.95),
    "background": ("background right", ">=", 0.995),
    "clip_top1": ("CLIP: right caption of 256, held-out pairs", ">=", 0.98),
    "noun_miou": ("the noun's heat map against the exact mask, mIoU", ">=", 0.75),
    "noun_miou_constant": ("one constant centred mask, mIoU", None, None),
    "noun_miou_wrong_word": ("the map of the background's word, mIoU", None, None),
    "noun_miou_ceiling": ("the exact mask at the map's resolution, mIoU", None, None),
    "frechet": ("Fréchet distance, generated to fresh renders", None, None),
    "frechet_real": ("Fréchet distance, renders to other renders", None, None),
    "judge_validation": ("judge on fresh renders, all three right", ">=", 0.999),
    "nearest_generated": ("distance to the nearest training picture, generated", None, None),
    "nearest_real": ("distance to the nearest training picture, fresh renders", None, None),
    "seconds_per_image": ("seconds for one picture, 20 guided steps", "<=", 1.0),
}


def reached(value: float, sign: str, goal: float) -> bool:
    """Whether a value is on the right side of its goal."""
    return value >= goal if sign == ">=" else value <= goal


def table(found: dict) -> str:
    """The numbers as lines of text: value, interval, count, goal and whether it is reached."""
    lines = [f"{'':58s} {'value':>8s}  {'95% interval':>17s} {'n':>6s}  goal"]
    for key, (what, sign, goal) in GOALS.items():
        v, share = found[key], key.startswith(("prompt", "avocado", "article", "background", "clip", "judge"))
        show = (lambda x: f"{100 * x:.2f}%") if share else (lambda x: f"{x:.3g}")
        verdict = ""
        if sign:
            verdict = f"{sign} {show(goal)}: {'reached' if reached(v['value'], sign, goal) else 'not reached'}"
        lines.append(f"{what:58s} {show(v['value']):>8s}  {show(v['low']):>7s} to {show(v['high']):>6s} {v['n']:6d}  {verdict}")
    ratio = found["frechet"]["value"] / max(found["frechet_real"]["value"], 1e-9)
    lines.append(f"Fréchet distance against that of renders: {ratio:.1f} times (goal: at most 3)")
    return "\n".join(lines)
