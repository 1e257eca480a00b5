"""What the report's page shows, worked out from the report's numbers and said in a language."""
