"""The feature schema: pinned by digest, normalised by public constants."""

from dataclasses import replace

import numpy as np
import pytest

from shared_models.features import BEHAVIOUR, BehaviourFeatures

GOLDEN = "0ab3c8995c8b1c930111c5aa79b5b1402e4765484e8be3bd57ac53190dbb6f8f"


def test_the_schema_is_the_one_that_sites_pinned() -> None:
    # A change here makes every stored feature and every study file of the old schema useless:
    # bump it on purpose, and say so in the changelog.
    assert BEHAVIOUR.digest == GOLDEN


@pytest.mark.parametrize("change", [{"unit": "px"}, {"scale": 9.0}, {"name": "x"}])
def test_any_change_of_a_column_changes_the_digest(change: dict) -> None:
    first, *rest = BEHAVIOUR.features
    assert replace(BEHAVIOUR, features=(replace(first, **change), *rest)).digest != BEHAVIOUR.digest


def test_order_is_part_of_the_schema() -> None:
    backwards = replace(BEHAVIOUR, features=BEHAVIOUR.features[::-1])
    assert backwards.digest != BEHAVIOUR.digest


def test_normalising_clips_centres_scales_and_blanks_what_is_missing() -> None:
    column = BEHAVIOUR.names.index("head_pitch")
    values = np.zeros((1, 3, len(BEHAVIOUR.features)), np.float32)
    values[0, :, column] = [6.0, 500.0, np.nan]
    mask = np.ones(values.shape, bool)
    mask[0, 2, column] = False
    normal = BEHAVIOUR.normalise(values, mask)
    assert normal[0, :, column].tolist() == [1.0, 7.5, 0.0]
    assert np.isfinite(normal).all()


def test_shapes_that_do_not_fit_are_refused() -> None:
    values = np.zeros((2, 150, 24), np.float32)
    mask = np.ones((2, 150, 24), bool)
    with pytest.raises(ValueError, match="one shape"):
        BehaviourFeatures(values, mask[:1], np.zeros(2), BEHAVIOUR.digest)
    with pytest.raises(ValueError, match="2 clip starts"):
        BehaviourFeatures(values, mask, np.zeros(3), BEHAVIOUR.digest)
