"""Built-in export formats."""
