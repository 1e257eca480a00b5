"""Subject-level differential privacy: mechanism, accounting and books; knows no hospital."""
