"""What a model made for this program says of itself, in the m2g.json beside its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from m2g_audit.errors import ModelError
from m2g_audit.foreign_files import read_file
from m2g_audit.text import first_line

OWN_SETTINGS_FILE = "m2g.json"


class OwnSettings(BaseModel):
    """How a model is meant to be sampled and compared, and the world that its pictures are of.

    size: (height, width) of its pictures in pixels; world: what stands for its training set, where
    this program can draw that again.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    steps: Annotated[int, Field(ge=1)] | None = None
    guidance: Annotated[float, Field(ge=0)] | None = None
    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    metric: str | None = None
    world: str | None = None


def read_own_settings(folder: Path) -> OwnSettings:
    """Return what m2g.json of a model's folder says, all None where there is none.

    Raises:
        ModelError: It can't be read, or is not what this program reads.
    """
    file = folder / OWN_SETTINGS_FILE
    try:
        return OwnSettings.model_validate_json(read_file(file))
    except FileNotFoundError:
        return OwnSettings()
    except (OSError, ValidationError) as error:
        raise ModelError(
            f"{file} is not what this program reads ({first_line(error)}): mend it, or leave it "
            "out and say --steps and --guidance."
        ) from error
