"""What was measured at a site: verdicts, quality and indicators, as a table, files or a page.

Everything here describes single subjects and is written for the site alone.
"""

from __future__ import annotations

from client.inspection.recordings import Inspection, inspect_site

__all__ = ["Inspection", "inspect_site"]
