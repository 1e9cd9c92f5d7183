"""Names of models that mean something here; light enough for a command's help."""

from typing import TypedDict

DEFAULT_MODEL = "CompVis/stable-diffusion-v1-4"
POCKET = "pocket"
"""The model that ships with this program."""


class Which(TypedDict, total=False):
    """Which model is meant beside its name, and which of its weights are read.

    revision: of a hub id; subfolder: of its repository or folder, where the model lies;
    allow_pickle: load weights from pickle files, which can run any code; variant: of the weights,
    such as fp16; ema: of weights that lie there twice the averaged ones; config_from: the model
    that the parts come from which a single file or the folder of a training lacks.
    """

    revision: str | None
    subfolder: str | None
    allow_pickle: bool
    variant: str | None
    ema: bool
    config_from: str | None
