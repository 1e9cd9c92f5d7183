"""The report of a sweep: tables and figures, from its stored numbers alone."""
