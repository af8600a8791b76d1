"""Rankers, a file each: all modules here are imported when the names of rankers are needed."""
