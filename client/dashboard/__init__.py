"""The site's dashboard: what ``inspect``, ``budget``, ``audit`` and ``approve`` tell, live."""
