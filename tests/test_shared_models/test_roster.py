"""The roster: who takes part, numbered and signed."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from privacy.keys import public_line, sign
from shared_models.consortium import (
    Consortium,
    ConsortiumConfig,
    CoordinatorConfig,
    StudyConfig,
    load_consortium,
)
from shared_models.renewal import RenewalError, read_renewal, sign_renewal
from shared_models.roster import Roster, RosterError, SiteEntry, read_roster, sign_roster

COORDINATOR = ec.generate_private_key(ec.SECP384R1())
SITES = {name: ec.generate_private_key(ec.SECP384R1()) for name in ("north", "south")}
DIGEST = "a" * 64


def roster(number: int = 1, *, digest: str = DIGEST) -> Roster:
    entries = tuple(SiteEntry(name, 40, public_line(key)) for name, key in SITES.items())
    return Roster(number, digest, entries, "-----BEGIN CERTIFICATE-----")


def read(content: bytes, *, key: ec.EllipticCurvePrivateKey = COORDINATOR) -> Roster:
    return read_roster(content, public_key=public_line(key), consortium_digest=DIGEST)


def study(sites: tuple[SiteEntry, ...] = ()) -> Consortium:
    coordinator = CoordinatorConfig(public_line(COORDINATOR))
    config = ConsortiumConfig(StudyConfig("smiles", "phq9"), coordinator=coordinator, sites=sites)
    return Consortium(config, DIGEST)


def test_a_signed_roster_reads_back() -> None:
    assert read(sign_roster(roster(), COORDINATOR)) == roster()


def test_a_roster_of_another_signer_is_refused() -> None:
    content = sign_roster(roster(), SITES["north"])
    with pytest.raises(RosterError, match="not signed by the coordinator"):
        read(content)


def test_without_a_coordinators_key_no_roster_counts() -> None:
    content = sign_roster(roster(), COORDINATOR)
    with pytest.raises(RosterError, match="not signed"):
        read_roster(content, public_key=None, consortium_digest=DIGEST)


@pytest.mark.parametrize("field", ["number", "sites", "authorities", "consortium_digest"])
def test_every_field_is_under_the_signature(field: str) -> None:
    signed = json.loads(sign_roster(roster(), COORDINATOR))
    inner = json.loads(signed["roster"])
    inner[field] = {"number": 9, "sites": [], "authorities": "", "consortium_digest": "b" * 64}[
        field
    ]
    altered = json.dumps({**signed, "roster": json.dumps(inner)}).encode()
    with pytest.raises(RosterError, match="not signed"):
        read(altered)


def test_a_signature_of_other_bytes_of_the_coordinator_is_no_roster() -> None:
    text = json.loads(sign_roster(roster(), COORDINATOR))["roster"]
    signature = base64.b64encode(sign(COORDINATOR, text.encode())).decode()
    with pytest.raises(RosterError, match="not signed"):
        read(json.dumps({"roster": text, "signature": signature}).encode())


def test_a_roster_of_another_study_is_refused() -> None:
    content = sign_roster(roster(digest="b" * 64), COORDINATOR)
    with pytest.raises(RosterError, match="belongs to study bbbb"):
        read(content)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"roster": "", "signature": "?"}'])
def test_other_bytes_are_refused_by_name(content: bytes) -> None:
    with pytest.raises(RosterError, match="Expected a signed roster"):
        read(content)


def test_a_site_named_twice_cannot_be_signed() -> None:
    twice = roster().sites[:1] * 2
    with pytest.raises(ValueError, match="id once"):
        replace(roster(), sites=twice)


def test_a_study_takes_its_sites_from_the_roster() -> None:
    consortium = study().with_roster(sign_roster(roster(3), COORDINATOR))
    assert [site.id for site in consortium.config.sites] == ["north", "south"]
    assert (consortium.roster_number, consortium.digest) == (3, DIGEST)
    later = replace(roster(4), sites=roster().sites[1:])
    assert len(consortium.with_roster(sign_roster(later, COORDINATOR)).config.sites) == 1


def test_a_study_file_that_lists_its_sites_takes_no_others() -> None:
    with pytest.raises(RosterError, match="lists its sites itself"):
        study(roster().sites[:1]).with_roster(sign_roster(roster(), COORDINATOR))


def test_a_study_whose_roster_is_not_there_yet_has_no_sites(tmp_path: Path) -> None:
    file = tmp_path / "consortium.toml"
    file.write_text(
        '[study]\nname = "smiles"\ninstrument = "phq9"\n'
        f'[coordinator]\npublic_key = "{public_line(COORDINATOR)}"\n'
    )
    consortium = load_consortium(file, roster=tmp_path / "roster.json")
    assert (consortium.config.sites, consortium.roster_number) == ((), 0)


def test_a_renewal_needs_the_present_key() -> None:
    new = ec.generate_private_key(ec.SECP384R1())
    present = SITES["north"]
    content = sign_renewal("north", new, present_key=present)
    line = public_line(present)
    assert read_renewal(content, site_id="north", present_key=line) == public_line(new)
    with pytest.raises(RenewalError, match="--lost"):
        read_renewal(content, site_id="north", present_key=public_line(SITES["south"]))
    with pytest.raises(RenewalError, match="one of 'north'"):
        read_renewal(content, site_id="south", present_key=line)


def test_a_renewal_cannot_be_turned_to_another_key() -> None:
    new, thief = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    fields = json.loads(sign_renewal("north", new, present_key=SITES["north"]))
    fields["public_key"] = public_line(thief)
    with pytest.raises(RenewalError, match="another signature"):
        read_renewal(
            json.dumps(fields).encode(),
            site_id="north",
            present_key=public_line(SITES["north"]),
        )
