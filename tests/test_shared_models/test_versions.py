"""Versions of the two parties: what fits, and that the refusal names both and the remedy."""

import doctest

import pytest

from shared_models import versions
from shared_models.versions import explain, is_compatible


@pytest.mark.parametrize(
    ("first", "second", "fits"),
    [
        ("0.1.0", "0.1.0", True),
        ("0.1.0", "0.1.12", True),
        ("0.1.0", "0.1.1.dev3", True),
        ("0.1.0", "0.1.0+hospital.2", True),
        ("1.2", "1.2.0", True),
        ("0.1.0", "0.2.0", False),
        ("0.10.0", "0.1.0", False),
        ("1.0.0", "2.0.0", False),
        ("0.1.0", "", False),
        ("", "", False),
        ("0.1.0", "0.1.0; rm -rf /", False),
    ],
)
def test_same_major_and_minor_number_fit_in_either_order(first, second, fits):
    assert is_compatible(first, second) is fits
    assert is_compatible(second, first) is fits
    assert (explain(here=first, there=second, whose="the coordinator") == "") is fits


def test_refusal_names_both_versions_the_party_and_the_remedy():
    told = explain(here="0.4.2", there="0.3.9", whose="the coordinator")
    for part in ("0.4.x at the coordinator", "0.4.2 is installed here", "got 0.3.9", "install"):
        assert part in told


def test_documented_examples_hold():
    assert doctest.testmod(versions).failed == 0
