"""Built-in adversarial wrapper."""
