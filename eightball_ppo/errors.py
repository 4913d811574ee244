"""Exceptions whose text is a message for the user; the command line ends with the exit code that each one names."""


class UserFacingError(Exception):
    """An error that is printed as one line, without a traceback.

    `relayed` is True on ranks that received it from the main process, which prints it.
    """

    relayed = False


class InputError(UserFacingError):
    """Bad usage or bad input: names the file, row and value, and says how to fix it. Exit code 2."""


class IncompleteError(UserFacingError):
    """Stopped before the end, with everything paid for stored: says what is missing and how to resume. Exit code 3."""


class TrainingDivergedError(UserFacingError):
    """Training diverged and was stopped: says where to look. Exit code 4."""


class TrainingInterrupted(UserFacingError):  # noqa: N818  it was asked for
    """A signal stopped training after a checkpoint: says how to resume. Exit code 128 + `signal_number`."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class DryRun(Exception):  # noqa: N818  nothing went wrong
    """The end of a dry run; its text is the estimated cost, printed on stdout. Exit code 0."""
