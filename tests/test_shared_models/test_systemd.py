"""Words and paths as systemd reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared_models.console import InputError
from shared_models.systemd import harden, quote_command, quote_paths


@pytest.mark.parametrize("path", ["/srv/line\nbreak", "/srv/a\x00b", "/srv/a\tb"])
def test_what_cannot_stand_in_a_unit_is_refused(path):
    with pytest.raises(InputError, match="printable"):
        quote_paths([path])


def test_words_are_escaped_as_systemd_reads_them():
    assert quote_command(["/a b", 'say "$x"', "100%", "back\\slash"]) == (
        r'"/a b" "say \"$$x\"" "100%%" "back\\slash"'
    )


def test_homes_and_scratch_are_hidden_unless_the_unit_lives_there():
    assert "ProtectHome=yes" in harden([Path("/srv/hub")])
    assert "PrivateTmp=yes" in harden([Path("/srv/hub")])
    assert "ProtectHome=read-only" in harden([Path("/srv/hub"), Path("/home/ada/env")])
    assert "ProtectHome=read-only" in harden([Path("/srv/hub")], keep_homes=True)
    assert "PrivateTmp=no" in harden([Path("/tmp/hub")])
