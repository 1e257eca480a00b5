"""What the site writes down of its recordings: the table, notes beside the videos, treatments."""
