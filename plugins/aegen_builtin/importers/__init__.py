"""Built-in importers."""
