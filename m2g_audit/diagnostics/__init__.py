"""A score model and all that is measured on it: no file, no prompt, no diffusers."""
