"""The one exception a user is meant to see."""


class InputError(Exception):
    """Bad usage or bad input: one line that names the thing and says how to mend it. Scripts exit with 2."""
