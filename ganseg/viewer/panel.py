"""What the widgets share: a panel that says what is wrong, and pictures that hide while they are empty."""

from base64 import b64encode
from html import escape

import ipywidgets

from ganseg.errors import UserError

WIDE = {"description_width": "initial"}


class Panel(ipywidgets.VBox):
    """A widget that says in `message` what was done or is wrong, where a traceback would help nobody."""

    def __init__(self):
        self.message, self._busy = ipywidgets.HTML(), False
        super().__init__()

    def _react(self, action, *fields):
        """Make an action follow each change of some fields. Returns it as a function that never raises a UserError."""

        def observer(change=None):
            if self._busy:  # an action sets this field, and shows what follows from it itself
                return
            field = getattr(change, "owner", None)
            if isinstance(field, ipywidgets.FloatSlider) and abs(change.new - change.old) < field.step / 2:
                return  # a browser has only rounded it
            self._busy = True
            try:
                self.message.value = escape(action() or "")
            except (UserError, OSError) as error:
                self.message.value = alert(error)
            finally:
                self._busy = False

        for field in fields:
            field.observe(observer, "value")
        return observer


def alert(text):
    return f'<p role="alert" style="border-left: 4px solid #D55E00; padding-left: 0.6em">{escape(str(text))}</p>'


def downloads(files):
    """Links, as HTML, by which a browser saves files: {name: (kind as in image/png, bytes)}."""
    style = "lm-Widget jupyter-widgets jupyter-button widget-button"
    return " ".join(
        f'<a class="{style}" style="width: auto" download="{escape(name)}" '
        f'href="data:{kind};base64,{b64encode(content).decode()}">Download {escape(name)}</a>'
        for name, (kind, content) in files.items())


def image_widget(kind):
    """An Image widget, hidden while it is empty, when browsers would draw a broken one."""
    return ipywidgets.Image(format=kind, layout={"display": "none"})


def put(image, data):
    image.value, image.layout.display = data, None if data else "none"
