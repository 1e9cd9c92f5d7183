"""The text-to-image model that ships with the project, and the world it was trained on."""
