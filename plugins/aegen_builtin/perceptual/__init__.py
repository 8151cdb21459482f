"""Built-in wrappers that judge by more than single pixels."""
