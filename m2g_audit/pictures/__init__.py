"""Pictures that people bring: where they lie, what is written beside them, how they are read."""
