"""Collections copied from store to store."""
