"""A site that leaves for good: everything it made is destroyed, and a certificate says so."""
