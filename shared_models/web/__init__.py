"""What the two dashboards share: login, headers, language, layout. Nothing here writes to a study.

Only the dashboards import this package; it needs FastAPI, which the engine brings.
"""
