"""Looking at finished runs, without torch: the gate, the summary, comparisons."""
