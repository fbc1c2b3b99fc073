"""A plotly figure as a widget that needs no network and follows light and dark."""

from pathlib import Path
from typing import Any

import anywidget
import traitlets


class Chart(anywidget.AnyWidget):
    """Shows a figure made elsewhere; plotly.js comes from the page, or else from the kernel."""

    _esm = Path(__file__).with_name("chart.js")
    figure = traitlets.Dict().tag(sync=True)

    def __init__(self, figure: dict[str, Any], **traits: Any) -> None:
        """Show a figure given as plotly's JSON data."""
        super().__init__(figure=figure, **traits)
        self.on_msg(self._send_plotly)

    def _send_plotly(self, _: object, content: object, __: object) -> None:
        # Under JupyterLab or Binder no page of ours has loaded plotly.js: hand it over once.
        if content == "plotly":
            import plotly.offline

            self.send("plotly", buffers=[plotly.offline.get_plotlyjs().encode()])
