"""What a component must give and be, held where it is loaded, built and called."""
