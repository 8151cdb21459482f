"""Built-in feature networks: frozen nets that were trained to recognise things."""
