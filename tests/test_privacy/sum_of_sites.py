"""A secure sum over sites by the functions that real sites and coordinators run."""

from functools import cache

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from client.learning.secure_sums import mask_vector
from privacy.keys import public_line
from privacy.secure_sum import add_masked, exchange_key, public_bytes
from shared_models.consortium import (
    ConsortiumConfig,
    PrivacyConfig,
    SiteEntry,
    StudyConfig,
    TrainingConfig,
)
from shared_models.masking import sum_terms
from shared_models.messages import CohortMember, ModelRequest


@cache
def public_line_of(site):
    return public_line(ec.generate_private_key(ec.SECP384R1()))


def make_study(*, sites=3, weight=400, rounds=30, mode="distributed", **privacy):
    """A study whose plan protects each subject as asked, without spare sums."""
    return ConsortiumConfig(
        study=StudyConfig("audit", "phq9"),
        training=TrainingConfig(rounds=rounds),
        privacy=PrivacyConfig(mode=mode, retries=0, **privacy),
        sites=tuple(
            SiteEntry(name, weight, public_line_of(name))
            for name in (f"site-{number:02d}" for number in range(sites))
        ),
    )


def secret_of(site):
    return site.encode().ljust(32, b".")


def mask_parts(config, vectors, noises, *, server_round=1, attempt=1):
    """The masked vector of each site of the cohort that ``vectors`` names."""
    keys = {site: exchange_key(secret_of(site), "run") for site in vectors}
    plan = config.training_plan()
    request = ModelRequest(
        run_id="run",
        server_round=server_round,
        weights={},
        base_digest="",
        consortium_digest="",
        plan=plan,
        cohort=tuple(CohortMember(s, public_bytes(keys[s]), b"") for s in sorted(vectors)),
        attempt=attempt,
    )
    return {
        site: mask_vector(
            np.asarray(vector, np.float64),
            request,
            config,
            site_id=site,
            own=keys[site],
            plan=plan,
            purpose="train",
            noise=noises[site],
        )
        for site, vector in vectors.items()
    }


def sum_vectors(config, vectors, noises, **which):
    """What the coordinator can read: the noised sum of the sites' vectors."""
    masked = mask_parts(config, vectors, noises, **which)
    size = len(next(iter(masked.values())))
    terms = sum_terms(config, sorted(vectors), plan=config.training_plan(), size=size)
    return terms.form.decode(add_masked(masked.values()))
