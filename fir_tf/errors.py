"""The exceptions that carry a message to a person."""


class FirError(ValueError):
    """Bad input, told to the person who gave it.

    The message says what was wrong, the value received, the file and line where there is one,
    and what to do. The scripts print it without a traceback.

    Attributes:
        status: int, the exit status of a script that it ends.
    """

    status = 1


class StoppedError(FirError):
    """A run that ended because it was asked to; the same command goes on with it.

    Args:
        message: str.
        number: int, the signal that asked.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        # As shells count.
        self.status = 128 + number
