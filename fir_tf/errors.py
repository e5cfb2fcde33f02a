"""The one exception that carries a message to a person."""


class FirError(ValueError):
    """Bad input, told to the person who gave it.

    The message says what was wrong, the value received, the file and line where there is one,
    and what to do. The scripts print it without a traceback and exit with status 1.
    """
