"""What is known of each named encoder before it is loaded: frozen data, one file a loader, and no loading code."""
