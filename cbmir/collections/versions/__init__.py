"""Versions of a collection on a server, and which of them its name leads to."""
