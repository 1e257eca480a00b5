"""The coordinator: admits sites, sums their noised updates, judges the model."""
