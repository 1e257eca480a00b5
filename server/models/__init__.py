"""The registry of global models: numbered over all runs, signed, each with its lineage."""
