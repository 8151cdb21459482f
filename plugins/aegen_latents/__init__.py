"""Built-in bottlenecks."""
