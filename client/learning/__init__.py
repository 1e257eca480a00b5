"""Sees features, never a video."""
