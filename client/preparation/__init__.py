"""From the table to the store: checking recordings and extracting them in batches."""
