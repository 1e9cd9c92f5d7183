"""What every part of a stored record is: a value that a newer minor version may add to."""

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """Frozen, described by its fields' docstrings."""

    # Fields that a newer minor version adds are passed over: an older program reads the rest.
    model_config = ConfigDict(
        frozen=True, extra="ignore", from_attributes=True, use_attribute_docstrings=True
    )
