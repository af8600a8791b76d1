"""Runnable examples; nothing in the program imports them."""
