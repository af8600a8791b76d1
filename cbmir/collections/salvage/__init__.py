"""What can still be read of a damaged collection, taken into a new one."""
