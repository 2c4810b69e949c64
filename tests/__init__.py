"""A package of its own, since some distributions install a top-level ``tests`` too."""
