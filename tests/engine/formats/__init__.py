"""Import of models."""
