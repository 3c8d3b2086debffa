"""The one kind of error a user's mistake ends in."""


class UserError(Exception):
    """A mistake of the user: one sentence with the thing, what is wrong and what would be right.

    The commands print the sentence and exit with 1; notebooks show it without a traceback.
    """

    def _render_traceback_(self):
        """What IPython shows instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]
