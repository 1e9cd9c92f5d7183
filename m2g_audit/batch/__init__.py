"""Many prompts through one model."""
