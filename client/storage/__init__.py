"""The encrypted store, the only place where the halves of a site meet, and what lies in it."""
