"""A subject's visits side by side: time, treatment, change beyond error of measurement."""
