"""JSON schemas of what is written, with what each field means."""

from typing import Any

from pydantic import BaseModel


def schema_of(kind: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a file or a line that is written."""
    schema = kind.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
