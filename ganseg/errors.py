"""The two ways in which a command ends without having done its work."""


class UserError(Exception):
    """A mistake of the user: one sentence with the thing, what is wrong and what would be right.

    The commands print the sentence and exit with 1; notebooks show it without a traceback.
    """

    def _render_traceback_(self):
        """What IPython shows instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class NotebookFailed(Exception):
    """A notebook broke off for a reason that is no mistake of the user."""
