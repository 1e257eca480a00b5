"""The coordinator of a simulated site: signs whatever a test wants it to ask."""

from pathlib import Path

from client.site import Site
from privacy.keys import load_identity_key
from server.signing import KEY_FOLDER, SIGNING_KEY
from shared_models.messages import ModelRequest
from shared_models.signed_models import Kind, sign_request


def signed(site: Site, request: ModelRequest, *, kind: Kind = "train") -> ModelRequest:
    """The request as the coordinator of the site's study would sign it."""
    return sign_request(request, load_identity_key(signing_key_file(site)), kind=kind)


def signing_key_file(site: Site) -> Path:
    """Where the simulation keeps the coordinator's key: beside the folder of all sites."""
    return site.folder.parents[1] / KEY_FOLDER / SIGNING_KEY
