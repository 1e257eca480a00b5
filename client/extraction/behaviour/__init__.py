"""Pure functions from a face track to behaviour features and indicators; NumPy only."""
