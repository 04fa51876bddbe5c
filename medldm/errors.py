"""The errors a user meets: what was given, what was expected, the usual fix. The command line turns them into exit codes."""


class UserError(Exception):
    """The user's input is wrong (exit code 2).

    Args:
        message: one sentence that names the file or key, what was found and what was expected.
        fix: what to do about it, in one sentence.
    """

    exit_code = 2

    def __init__(self, message: str, fix: str = ""):
        super().__init__(f"{message} {fix}".strip())


class OutOfSpace(UserError):
    """The disk or the memory does not suffice (exit code 3)."""

    exit_code = 3
