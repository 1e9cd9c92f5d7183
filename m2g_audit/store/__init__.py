"""Folders of runs: whose they are, what is finished, how processes share them."""
