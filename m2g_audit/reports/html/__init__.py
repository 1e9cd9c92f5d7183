"""A run as one HTML file that opens from disk: nothing in it is fetched, and no prompt is run."""
