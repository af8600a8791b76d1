"""The page for people: a template, styles and scripts, all served from here; nothing is built, nothing is fetched."""
