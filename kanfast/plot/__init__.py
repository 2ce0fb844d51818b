"""Pictures of networks, of single edges and of trainings, as Matplotlib figures.

Figures are made without pyplot: nothing is shown or kept, and no setting is touched. Save one with
`figure.savefig("network.png")`; a notebook shows it after `%matplotlib inline`.

Raises:
    ImportError: On import, where Matplotlib is missing: `pip install "kanfast[run]"`.
"""

from kanfast.extras import require

require("matplotlib")

from kanfast.plot.curve import edge as edge  # noqa: E402
from kanfast.plot.diagram import network as network  # noqa: E402
from kanfast.plot.training import history as history  # noqa: E402
