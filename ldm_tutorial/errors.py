"""The errors that a learner's own input, or a learner's own Ctrl-C, can raise."""


class UserError(ValueError):
    """What was given cannot work. The message is one sentence: what was wrong, and what to do instead."""


class Interrupted(UserError):
    """A training was stopped before its end, and its state was saved. The message says how to go on."""
