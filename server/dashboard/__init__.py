"""The coordinator's dashboard: what ``status``, ``report`` and ``models`` tell, on one live page."""
