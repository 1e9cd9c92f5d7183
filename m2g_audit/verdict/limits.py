"""What the rule of verdicts allows, for those too who only put a verdict in words."""

UNDETECTED_LIMIT = 0.3
"""`generalized` says that no attractor of more than this mass was missed."""
