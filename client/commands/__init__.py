"""The commands of ``vultus-site``, one file for each kind of work."""
