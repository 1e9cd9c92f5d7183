"""What is written and read for ever: typed and versioned."""
