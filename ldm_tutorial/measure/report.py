"""The table of the model card: what each number means, and the goal that it should reach."""

from __future__ import annotations

# what each key means and the value to reach; "<=" where smaller is better
GOALS: dict[str, tuple[str, str | None, float | None]] = {
    "psnr": ("reconstruction of validation renders, dB", ">=", 30),
    "prompt_trained": ("object and material right, trained pairs", ">=", 0.995),
    "prompt_heldout": ("object and material right, held-out pairs", ">=", 0.99),
    "free_wording": ("object and material right, free wording", ">=", 0.97),
    "free_wording_background": ("background right, free wording", None, None),
    "avocado_armchair": ("avocado armchairs", ">=", 0.99),
    "article_prompt": ("the article's own prompt", ">=", 0.95),
    "background": ("background right", ">=", 0.995),
    "judges_agree": ("both judges name the generated picture alike", None, None),
    "clip_top1": ("CLIP: right caption of 256, held-out pairs", ">=", 0.98),
    "noun_miou": ("the noun's heat map against the exact mask, mIoU", ">=", 0.75),
    "noun_miou_constant": ("one constant centred mask, mIoU", None, None),
    "noun_miou_wrong_word": ("the map of the background's word, mIoU", None, None),
    "noun_miou_ceiling": ("the exact mask at the map's resolution, mIoU", None, None),
    "frechet": ("Fréchet distance, generated to fresh renders", None, None),
    "frechet_real": ("Fréchet distance, renders to other renders", None, None),
    "kid": ("kernel distance (KID), generated to fresh renders", None, None),
    "kid_real": ("kernel distance (KID), renders to other renders", None, None),
    "judge_validation": ("judge on fresh renders, all three right", ">=", 0.999),
    "second_judge_validation": ("second judge on the same renders", ">=", 0.995),
    "nearest_generated": ("distance to the nearest training picture, generated", None, None),
    "nearest_real": ("distance to the nearest training picture, fresh renders", None, None),
    "seconds_per_image": ("seconds for one picture (default), loaded", "<=", 1.0),
    "seconds_generate": ("seconds of `ldm generate`, start-up included", "<=", 2.5),
}
ENGINES = {"onnx": "ONNX Runtime", "torch": "PyTorch"}  # what drew
SHARES = ("prompt", "free", "avocado", "article", "background", "clip", "judge", "second_judge")


def reached(value: float, sign: str, goal: float) -> bool:
    """Whether a value is on the right side of its goal."""
    return value >= goal if sign == ">=" else value <= goal


def as_text(key: str, value: float) -> str:
    """A value as the table shows it: per cent for a share, else three digits."""
    return f"{100 * value:.2f}%" if key.startswith(SHARES) else f"{value:.3g}"


def row(key: str, number: dict) -> tuple[str, str, str, str, str]:
    """One number ``{"value", "n", "low", "high"}`` as text: what it is, its value, between what it lies, of how many pictures
    (and of how many pairs or prompts these are), whether the goal is reached."""
    what, sign, goal = GOALS[key]
    if "engine" in number:
        what += f", by {ENGINES[number['engine']]}"
    low, high = as_text(key, number["low"]), as_text(key, number["high"])
    between = f"fastest {low}, slowest {high}" if key.startswith("seconds") else f"{low} to {high}"
    n = f"{number['n']} ({number['groups']})" if "groups" in number else f"{number['n']}"
    verdict = ""
    if sign and goal is not None:
        verdict = f"{sign} {as_text(key, goal)}: {'reached' if reached(number['value'], sign, goal) else 'not reached'}"
    return what, as_text(key, number["value"]), between, n, verdict


def table(found: dict) -> str:
    """The numbers as lines of text. Where a count is followed by another one in brackets, the pictures are of so many pairs or
    prompts, and the interval counts these."""
    lines = [f"{'':58s} {'value':>8s}  {'95% interval':>28s} {'n':>10s}  goal"]
    for key in found:
        what, value, between, n, verdict = row(key, found[key])
        lines.append(f"{what:58s} {value:>8s}  {between:>28s} {n:>10s}  {verdict}".rstrip())
    ratio = found["frechet"]["value"] / max(found["frechet_real"]["value"], 1e-9)
    lines.append(f"Fréchet distance against that of renders: {ratio:.1f} times (goal: at most 3)")
    return "\n".join(lines)
