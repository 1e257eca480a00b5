"""Sees videos, never the network."""
