"""Who asks, what is searched, what may not be found, what is nearest, and which of it is right."""
