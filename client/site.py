"""A site's folder: opened only if it is private and pinned to the study it agreed to."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.site_config import SiteConfig
from client.site_template import (
    REQUIRED_COLUMNS,
    new_readme,
    new_site_toml,
    repinned,
    with_simulation,
)
from privacy import keys
from privacy.policy import SitePolicy
from privacy.vault import write_atomic
from shared_models.consortium import Consortium, load_consortium
from shared_models.roster import ROSTER_FILE, RosterError, SiteEntry
from shared_models.toml import load_toml

SITE_FILE = "site.toml"
CONSORTIUM_FILE = "consortium.toml"
STORAGE_KEY = "storage.key"
LEDGER_KEY = "ledger.pem"
EXCHANGE_KEY = "exchange.key"
IDENTITY_KEY = "identity"
IDENTITY_PUBLIC = "identity.pub"
IDENTITY_NEXT = "identity.next"
PRIVATE_FOLDERS = ("keys", "store", "state", "videos")
OTHERS = stat.S_IRWXG | stat.S_IRWXO


class SiteError(Exception):
    """A site folder that cannot be used as it is; the message names the remedy."""

    exit_code = 2


@dataclass(frozen=True)
class SitePaths:
    """Absolute places of a site; only the extractor needs ``videos``.

    Attributes:
        recordings: The table of recordings, ``recordings.csv``.
        videos: Folder that the table's ``file`` column starts from.
        store: Folder of the encrypted features.
        state: Folder of what the site remembers between runs.
        keys: Folder of the private keys.
        consortium: The pinned study file.
        face_model: The face landmarker bundle, if the site names one.
    """

    recordings: Path
    videos: Path
    store: Path
    state: Path
    keys: Path
    consortium: Path
    face_model: Path | None

    @property
    def ledger(self) -> Path:
        """The durable privacy spend of this site."""
        return self.state / "ledger.sqlite"

    @property
    def roster(self) -> Path:
        """The sites of the study as the coordinator signed them last."""
        return self.state / ROSTER_FILE

    @property
    def audit(self) -> Path:
        """The hash-chained log of what happened."""
        return self.state / "audit.jsonl"


@dataclass(frozen=True)
class Site:
    """An opened site.

    Attributes:
        folder: The site folder, absolute.
        config: ``site.toml`` as read.
        consortium: The pinned study.
        policy: What the site permits; None permits nothing.
        paths: Where everything lies.
    """

    folder: Path
    config: SiteConfig
    consortium: Consortium
    policy: SitePolicy | None
    paths: SitePaths

    @property
    def id(self) -> str:
        """The name under which the consortium knows the site."""
        return self.config.site.id

    @property
    def config_file(self) -> Path:
        """``site.toml``."""
        return self.folder / SITE_FILE

    @property
    def entry(self) -> SiteEntry | None:
        """The site's line in study file or roster; None before the coordinator has added it."""
        return self.consortium.config.site(self.id)

    @property
    def simulation_seed(self) -> int | None:
        """Seed of a simulated site; None at a real one, whose noise nobody can repeat."""
        return self.config.simulation.seed if self.config.simulation else None

    @property
    def identity_key_file(self) -> Path:
        """The private key file by which the coordinator knows the site.

        A key that was asked for (:mod:`client.renewal`) counts once study or roster name it.
        """
        renewed = self.paths.keys / IDENTITY_NEXT
        if self.entry is not None and renewed.exists():
            line = keys.public_line(keys.load_identity_key(renewed))
            if line.split() == self.entry.public_key.split()[:2]:
                return renewed
        return self.paths.keys / IDENTITY_KEY

    @property
    def public_key_file(self) -> Path:
        """The one file that is sent to the coordinator."""
        return self.paths.keys / IDENTITY_PUBLIC

    @cached_property
    def storage_key(self) -> bytes:
        """The key that wraps the feature store's data keys."""
        return keys.load_storage_key(self.paths.keys / STORAGE_KEY)

    @cached_property
    def ledger_key(self) -> Ed25519PrivateKey:
        """The key that signs the ledger's rows."""
        return keys.load_ledger_key(self.paths.keys / LEDGER_KEY)

    @cached_property
    def exchange_secret(self) -> bytes:
        """What the site's keys for secure sums are derived from, one for each run."""
        return keys.load_storage_key(self.paths.keys / EXCHANGE_KEY)

    @cached_property
    def identity_key(self) -> EllipticCurvePrivateKey:
        """The key by which the coordinator knows the site."""
        return keys.load_identity_key(self.identity_key_file)


def open_site(folder_or_file: Path) -> Site:
    """The site that a folder (or its ``site.toml``) describes.

    Raises:
        ConfigError: If ``site.toml`` or the study file is faulty.
        SiteError: If the folder is no site, others can read it, or the study file is not the one
            that was agreed to.
    """
    file = _site_file(folder_or_file)
    refuse_readable_by_others(file)
    config = load_toml(file, SiteConfig)
    paths = _resolve(file.parent, config)
    consortium = load_consortium(paths.consortium, roster=paths.roster)
    if consortium.digest != config.site.consortium_sha256:
        msg = (
            f"Expected {paths.consortium} with SHA-256 {config.site.consortium_sha256} (pinned in "
            f"{SITE_FILE}), got {consortium.digest}: the study file changed after this site agreed "
            "to it. Restore the agreed file, or read the new one and accept it with "
            f"'vultus-site init {file.parent} --id {config.site.id} --consortium FILE'."
        )
        raise SiteError(msg)
    policy = config.policy.to_policy() if config.policy else None
    return Site(file.parent, config, consortium, policy, paths)


def init_site(
    folder: Path,
    *,
    site_id: str,
    consortium_file: Path,
    simulation_seed: int | None = None,
    allow_no_privacy: bool = False,
) -> Site:
    """A site folder made ready, or an existing one brought to another study file.

    Keys, recordings and edits of an existing folder stay; only the pin changes.

    Args:
        folder: Where the site lives; made with mode 0700 if absent.
        site_id: Name of the site in the consortium.
        consortium_file: The study file to agree to; copied and pinned.
        simulation_seed: Draw noise from this seed; only simulations set it.
        allow_no_privacy: Permit a study without privacy; only simulations set it.

    Raises:
        ConfigError: If the study file or an existing ``site.toml`` is faulty.
        SiteError: If the folder belongs to another site or is open to other accounts.
    """
    folder = folder.expanduser().absolute()
    consortium = load_consortium(consortium_file)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / SITE_FILE
    if file.exists():
        text = repinned(_own_text(file, site_id), consortium.digest)
    else:
        text = new_site_toml(consortium, site_id, consortium_file=CONSORTIUM_FILE)
    if simulation_seed is not None:
        text = with_simulation(text, simulation_seed, allow_no_privacy=allow_no_privacy)
    study = consortium_file.read_bytes()
    _fill_folder(folder, consortium, site_id)
    write_atomic(folder / CONSORTIUM_FILE, study)
    write_atomic(file, text.encode())
    _drop_foreign_roster(folder, consortium)
    return open_site(folder)


def _drop_foreign_roster(folder: Path, consortium: Consortium) -> None:
    """Forget who took part in another study; the coordinator names the sites of this one."""
    roster = _resolve(folder, load_toml(folder / SITE_FILE, SiteConfig)).roster
    if roster.exists():
        try:
            consortium.with_roster(roster.read_bytes())
        except RosterError:
            roster.unlink()


def _own_text(file: Path, site_id: str) -> str:
    """``site.toml`` as it stands, if it is sound and belongs to this site."""
    refuse_readable_by_others(file)
    config = load_toml(file, SiteConfig)
    if config.site.id != site_id:
        msg = (
            f"Expected {file.parent} to belong to site {site_id!r}, got a folder of "
            f"{config.site.id!r}: name another folder, or use --id {config.site.id}."
        )
        raise SiteError(msg)
    if config.site.consortium != CONSORTIUM_FILE:
        msg = (
            f'Expected site.consortium = "{CONSORTIUM_FILE}" in {file}, got '
            f"{config.site.consortium!r}: the new study file would not be the one that is read."
        )
        raise SiteError(msg)
    return file.read_text(encoding="utf-8")


def _fill_folder(folder: Path, consortium: Consortium, site_id: str) -> None:
    """Private folders, keys, an empty table and a README; what exists is left alone."""
    for name in PRIVATE_FOLDERS:
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    _make_keys(folder / "keys")
    table = folder / "recordings.csv"
    if not table.exists():
        write_atomic(table, (",".join(REQUIRED_COLUMNS) + "\n").encode())
    readme = new_readme(site_id, consortium.config, public_key=IDENTITY_PUBLIC)
    write_atomic(folder / "README.txt", readme.encode())


def prepare_identity(folder: Path) -> str:
    """Public line of a site that has a folder and keys, and agrees to a study later.

    Args:
        folder: Where the site will live; made with mode 0700 if absent.
    """
    keys_folder = folder.expanduser().absolute() / "keys"
    for path in (keys_folder.parent, keys_folder):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _make_keys(keys_folder)
    return keys.public_line(keys.load_identity_key(keys_folder / IDENTITY_KEY))


def _make_keys(folder: Path) -> None:
    """Each key that is not there yet."""
    if not (folder / STORAGE_KEY).exists():
        keys.create_storage_key(folder / STORAGE_KEY)
    if not (folder / EXCHANGE_KEY).exists():
        keys.create_storage_key(folder / EXCHANGE_KEY)
    if not (folder / LEDGER_KEY).exists():
        keys.create_ledger_key(folder / LEDGER_KEY)
    if not (folder / IDENTITY_KEY).exists():
        keys.create_identity_key(folder / IDENTITY_KEY, folder / IDENTITY_PUBLIC)


def refuse_readable_by_others(path: Path) -> None:
    """Refuse a file or folder that the group or others can touch.

    Raises:
        SiteError: With the command that mends it.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & OTHERS:
        wanted = "700" if path.is_dir() else "600"
        msg = (
            f"Expected {path} to be closed to other accounts, got mode {mode:o}: "
            f"run 'chmod {wanted} {path}'."
        )
        raise SiteError(msg)


def _site_file(folder_or_file: Path) -> Path:
    path = folder_or_file.expanduser().absolute()
    file = path / SITE_FILE if path.is_dir() else path
    if not file.is_file():
        msg = (
            f"Expected a site folder with {SITE_FILE}, got {path}: create one with "
            "'vultus-site init DIR --id ID --consortium FILE'."
        )
        raise SiteError(msg)
    return file


def _resolve(folder: Path, config: SiteConfig) -> SitePaths:
    given = config.paths
    return SitePaths(
        recordings=folder / given.recordings,
        videos=folder / given.videos,
        store=folder / given.store,
        state=folder / given.state,
        keys=folder / given.keys,
        consortium=folder / config.site.consortium,
        face_model=folder / given.face_model if given.face_model else None,
    )
