"""Names of models that mean something here; light enough for a command's help."""

DEFAULT_MODEL = "CompVis/stable-diffusion-v1-4"
POCKET = "pocket"
"""The model that ships with this program."""
