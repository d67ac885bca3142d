"""What test_claims.py asks of a notebook while it runs: imported in the notebook's own kernel."""

from IPython import get_ipython

IPYTHONS_OWN = {"In", "Out", "exit", "quit", "get_ipython", "open"}


def retry(statement: str, check: str) -> str:
    """How a check fares on its control: "" where its own assertion fails, as it must.

    ``statement`` puts the control in the place of what was measured; afterwards all names are what they were.
    """
    space = get_ipython().user_ns
    before = dict(space)
    try:
        exec(statement, space)
        exec(compile(check, "<check>", "exec"), space)
        return "it survives its control"
    except AssertionError:
        return ""
    except BaseException as error:
        return f"it fails by {type(error).__name__} ({error}), not by its assertion"
    finally:
        for name in set(space) - set(before):
            del space[name]
        space.update(before)


def kinds() -> dict[str, str]:
    """{name: kind of thing} of all that the notebook has named so far."""
    named = get_ipython().user_ns.items()
    return {name: kind(thing) for name, thing in named if not name.startswith("_") and name not in IPYTHONS_OWN}


def kind(thing: object) -> str:
    """What kind of thing it is: a tensor without axes is a number like any other, a module is a module of whatever class."""
    from numbers import Number

    import torch
    from diffusers import DiffusionPipeline, SchedulerMixin
    from PIL import Image

    if isinstance(thing, Number) or (isinstance(thing, torch.Tensor) and thing.ndim == 0):
        return "number"
    for family in (dict, torch.Tensor, torch.nn.Module, SchedulerMixin, DiffusionPipeline, Image.Image):
        if isinstance(thing, family):
            return family.__name__
    return type(thing).__name__
