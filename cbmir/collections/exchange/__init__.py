"""Collections as files that anybody can read."""
