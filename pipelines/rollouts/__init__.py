"""Who samples, from exactly which weights, with which seeds."""
