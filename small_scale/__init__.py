"""The small-scale lab: reproduces the K-sweep of arXiv 2505.21777 and calibrates the thresholds."""
