"""The one kind of error that a learner's own input can raise."""


class UserError(ValueError):
    """What was given cannot work. The message is one sentence: what was wrong, and what to do instead."""
