"""The two exceptions a user is meant to see; each is one line."""


class InputError(Exception):
    """Bad usage or bad input: names the thing and says how to mend it. Scripts exit with 2."""


class IncompleteError(Exception):
    """Stopped on the way, with everything paid for kept: says what is missing and how to go on. Scripts exit with 3."""
