"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """Bad input. The message is one sentence: what is wrong and what to do. The command line prints it and exits with 2."""
