"""Fixtures of all tests: the real videos and the face landmarker bundle, where they are present."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED_ASSETS = Path(__file__).resolve().parents[2] / "shared" / "assets"
MODEL_NAME = "face_landmarker.task"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--face-model",
        type=Path,
        default=None,
        help="the face landmarker bundle; without it, tests marked needs_model are skipped",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with whole consortia, which mostly wait while other tests use the processors."""
    items.sort(key=lambda item: item.get_closest_marker("deployment") is None)


@pytest.fixture(scope="session")
def assets() -> Path:
    """Folder that holds ``videos/``: VULTUS_ASSETS, else shared/assets beside the checkout."""
    folder = Path(os.environ.get("VULTUS_ASSETS", SHARED_ASSETS))
    if not (folder / "videos").is_dir():
        pytest.skip(f"no videos in {folder}: set VULTUS_ASSETS to the folder that holds videos/")
    return folder


@pytest.fixture(scope="session")
def face_model(request: pytest.FixtureRequest) -> Path:
    """The face landmarker bundle: --face-model, VULTUS_FACE_MODEL, else the assets' models/."""
    given = request.config.getoption("--face-model") or os.environ.get("VULTUS_FACE_MODEL")
    assets = Path(os.environ.get("VULTUS_ASSETS", SHARED_ASSETS))
    model = Path(given) if given else assets / "models" / MODEL_NAME
    if not model.is_file():
        pytest.skip(
            f"no face landmarker bundle at {model}: pass --face-model FILE or set VULTUS_FACE_MODEL"
        )
    return model
