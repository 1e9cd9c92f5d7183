"""What a sweep measured: whether it may speak about a model, and what it says."""
