"""The exceptions a user is meant to see; their text is for the user, and scripts end with the code they name."""


class UserFacingError(Exception):
    """What a user is told in one line. `relayed`: raised on the main process of a launch, which tells it, and then on
    those that waited for that one."""

    relayed = False


class InputError(UserFacingError):
    """Bad usage or bad input: names the thing and says how to mend it. Exit code 2, one line."""


class IncompleteError(UserFacingError):
    """Stopped on the way, what was paid for kept: says what is missing and how to go on. Exit code 3, one line."""


class TrainingDivergedError(UserFacingError):
    """Training went wrong and was given up: says what, and where to look. Exit code 4, one line."""


class TrainingInterrupted(UserFacingError):  # noqa: N818  it was asked for
    """Stopped by a signal, a checkpoint written: says how to go on. Exit code 128 + `signal_number`, one line."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class DryRun(Exception):  # noqa: N818  nothing went wrong
    """The end of a dry run: what the stage would have cost. Exit code 0, printed on stdout."""
