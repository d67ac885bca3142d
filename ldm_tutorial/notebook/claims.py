"""What a notebook measured, as data: a check cell records its claim, and ``docs/claims.md`` is made from the records."""

from __future__ import annotations

FIELDS = ("claim", "value", "n", "low", "high", "control")


def record_claim(
    claim: str,
    value: float,
    n: int,
    low: float | None = None,
    high: float | None = None,
    control: float | None = None,
    digits: int = 3,
) -> None:
    """Print a claim's number and put it into the output's metadata, under the names of :data:`FIELDS` and no other.

    ``claim`` is its number in ``tests/claims.toml``. ``value`` was measured on ``n`` things; ``low`` and ``high`` are the ends
    of its 95% interval, if it has one; ``control`` is what the same function gives where the claim must fail. All but whole
    numbers are rounded to ``digits`` significant digits, so that the next machine prints the same.
    """
    from IPython.display import display

    numbers = [_rounded(x, digits) for x in (value, n, low, high, control)]
    record = dict(zip(FIELDS, (claim, *numbers), strict=True))
    display({"text/plain": _sentence(record)}, metadata=record, raw=True)


def _rounded(number, digits: int):
    """A plain Python number, or None: floats and one-element tensors to so many significant digits."""
    if number is None or isinstance(number, int):
        return number
    return float(f"{float(number):.{digits}g}")


def _sentence(record: dict) -> str:
    """``Claim 1.5: 29.7 (95% interval 29.4 to 30), n = 512; control: 11.2``"""
    text = f"Claim {record['claim']}: {record['value']:,}"
    if record["low"] is not None:
        text += f" (95% interval {record['low']:,} to {record['high']:,})"
    text += f", n = {record['n']:,}"
    if record["control"] is not None:
        text += f"; control: {record['control']:,}"
    return text


def compared(ours, theirs) -> str:
    """For proofs: how many numbers of two tensors, or two lists of tensors, are compared, and a bound of their differences.

    The bound is a power of ten and at least 1e-5, so that machines that round differently print the same.
    """
    import torch

    def flat(some):
        tensors = [some] if isinstance(some, torch.Tensor) else some
        return torch.cat([x.detach().flatten() for x in tensors])

    ours, theirs = flat(ours), flat(theirs)
    if ours.shape != theirs.shape:
        return f"{ours.numel():,} and {theirs.numel():,} numbers cannot be compared"
    difference = (ours - theirs).abs().max().item()
    bound = 1e-5
    while bound < difference < float("inf"):
        bound *= 10
    count = "1 number" if ours.numel() == 1 else f"{ours.numel():,} numbers"
    return f"{count} compared; the largest difference is below {bound:.0e}"
