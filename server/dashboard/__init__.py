"""The coordinator's dashboard: what ``status``, ``report`` and ``models`` tell, live."""
