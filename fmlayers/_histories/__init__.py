"""The histories of a batch: their index, and their sums."""
