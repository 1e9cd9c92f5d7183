"""From distances to a word: intervals, attractors, thresholds, states, shares, the rule."""
