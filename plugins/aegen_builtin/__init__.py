"""The built-in components, declared and made exactly as a third party makes its own."""
