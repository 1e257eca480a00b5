"""A site: one half sees videos, the other half sees the network; the feature store lies between."""
