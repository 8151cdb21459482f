"""What is done with a trained model: commands, each a file."""
