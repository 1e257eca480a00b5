"""Asks an application for its pages without a network."""

import warnings
from typing import Any

import httpx


def page_client(app: Any, base_url: str, **options: Any) -> httpx.Client:
    """Starlette's test client; its import alone warns of a fork of httpx and of its own parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from starlette.testclient import TestClient
    client: httpx.Client = TestClient(app, base_url=base_url, follow_redirects=False, **options)
    return client
