"""The processes that a site runs to take part in a consortium."""
