"""The figures of a sweep, drawn from its stored numbers (Fig. 1B, 3 to 9, 13 to 23, 26 to 30)."""
