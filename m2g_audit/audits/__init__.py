"""One prompt, from options to record."""
