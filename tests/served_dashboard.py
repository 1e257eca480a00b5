"""A dashboard that is really listening, for a real browser."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from shared_models.web.pages import Dashboard, Door, make_app
from shared_models.web.passwords import Cost, set_password
from shared_models.web.place import Place

PASSWORD = "correct horse battery"


def cheap_password(file: Path) -> Path:
    """A password file whose guesses cost next to nothing."""
    set_password(file, PASSWORD, cost=Cost(n=1 << 10))
    return file


@contextmanager
def served(dashboard: Dashboard) -> Iterator[str]:
    """Address of a dashboard that is served in a thread for as long as the context lasts."""
    place = Place("127.0.0.1", 0)
    with place.bind() as listening:
        port = listening.getsockname()[1]
        config = uvicorn.Config(
            make_app(dashboard, Door(place.hosts(port), is_secure=False)),
            log_config=None, lifespan="off", ws="none",
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield place.url(port)
        finally:
            server.should_exit = True
            thread.join(20)
            dashboard.snapshot.close()


def tree_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of everything in a folder, but for the log that SQLite keeps aside."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(folder.rglob("*"))
        if not path.name.endswith(("-wal", "-shm"))
    }
