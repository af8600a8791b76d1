"""A collection embedded again, by another encoder."""
