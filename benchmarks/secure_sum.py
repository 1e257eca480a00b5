"""What a secure sum costs a site: time, bytes on the way, and the ledger's reservation before it.

    python benchmarks/secure_sum.py [--size 250000] [--sites 10] [--subjects 100] [--repeats 15]
                                    [--folder DIR] [--json]

A site's part is all that it does between its clipped sum and its answer: noise from the
cryptographic source, rounding, a key agreement and a keystream with every other site. Bytes are
those of the whole answer, against the same answer with the update in float32. The ledger lies in
``--folder``, whose disk decides: each reservation is on it when the call returns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.common.serde import recorddict_to_proto

from client.learning.secure_sums import check_cohort, mask_vector
from privacy.keys import public_line, sign
from privacy.ledger import PrivacyLedger
from privacy.noise import ChaChaNoise
from privacy.secure_sum import add_masked, exchange_key, exchange_statement, public_bytes
from shared_models.consortium import ConsortiumConfig, PrivacyConfig, StudyConfig
from shared_models.masking import sum_terms
from shared_models.messages import CohortMember, MaskedReply, ModelRequest, ModelUpdate
from shared_models.records import encode_reply
from shared_models.roster import SiteEntry

RUN, DIGEST = "run-1", "0" * 64


def milliseconds(action, repeats):
    """Median and largest wall time of a call, in ms."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append((time.perf_counter() - started) * 1e3)
    return {"median": round(statistics.median(times), 2), "largest": round(max(times), 2)}


def bytes_of(reply):
    return len(recorddict_to_proto(encode_reply(reply)).SerializeToString())


class Federation:
    """Sites with their keys, and the request that introduces them to one another."""

    def __init__(self, sites):
        names = [f"site-{number:02d}" for number in range(sites)]
        identities = {name: ec.generate_private_key(ec.SECP384R1()) for name in names}
        self.keys = {name: exchange_key(name.encode().ljust(32, b"."), RUN) for name in names}
        self.config = ConsortiumConfig(
            study=StudyConfig("benchmark", "phq9"),
            privacy=PrivacyConfig(mode="distributed"),
            sites=tuple(SiteEntry(name, 60, public_line(identities[name])) for name in names),
        )
        self.plan = self.config.training_plan()
        cohort = tuple(self._introduce(name, identities[name]) for name in names)
        self.request = ModelRequest(RUN, 1, {}, DIGEST, DIGEST, self.plan, cohort)

    def _introduce(self, name, identity):
        public = public_bytes(self.keys[name])
        return CohortMember(name, public, sign(identity, exchange_statement(RUN, name, public)))

    def check(self, name):
        check_cohort(self.request, self.config, site_id=name, own=self.keys[name])

    def mask(self, name, values, noise):
        return mask_vector(
            values,
            self.request,
            self.config,
            site_id=name,
            own=self.keys[name],
            plan=self.plan,
            purpose="train",
            noise=noise,
        )


def measure_sum(sites, size, repeats):
    federation, noise = Federation(sites), ChaChaNoise()
    values = np.random.default_rng(0).normal(size=size) * 1e-3
    names = list(federation.keys)
    parts = [federation.mask(name, values, noise) for name in names]
    terms = sum_terms(federation.config, names, plan=federation.plan, size=size)
    error = terms.form.decode(add_masked(parts)) - len(names) * values
    masked = bytes_of(MaskedReply(names[0], 1, DIGEST, parts[0], attempt=1, epsilon_spent=1.0))
    plain = bytes_of(ModelUpdate(names[0], 1, DIGEST, {"update": torch.zeros(size)}, 1.0))
    return {
        "site_ms": milliseconds(lambda: federation.mask(names[0], values, noise), repeats),
        "check_ms": milliseconds(lambda: federation.check(names[0]), repeats),
        "server_ms": milliseconds(lambda: terms.form.decode(add_masked(parts)), repeats),
        "bytes": masked,
        "bytes_ratio": round(masked / plain, 5),
        "noise_ratio": round(float(error.std() / terms.total_stddev), 4),
        "added_sensitivity": terms.form.step * size**0.5 / federation.plan.max_grad_norm,
    }


def measure_ledger(subjects, repeats, folder):
    names = [f"subject-{number:04d}" for number in range(subjects)]
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "ledger.db"
        with PrivacyLedger(path, key=Ed25519PrivateKey.generate()) as ledger:
            rounds = iter(range(10_000))

            def reserve():
                ledger.reserve(
                    f"{RUN}/{next(rounds)}/train",
                    names,
                    noise_multiplier=10.0,
                    sample_rate=1.0,
                    steps=1,
                    delta=1e-3,
                    purpose="train",
                    cap_epsilon=100.0,
                )

            reserve()
            return milliseconds(reserve, max(30, repeats))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=250_000)
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--subjects", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--json", action="store_true", help="print one object as the last line")
    given = parser.parse_args()
    result = measure_sum(given.sites, given.size, given.repeats)
    result["reserve_ms"] = measure_ledger(given.subjects, given.repeats, given.folder)
    print(f"{given.sites} sites, {given.size} numbers, {given.subjects} subjects")
    for name, text in (
        ("site_ms", "a site: noise, rounding, mask"),
        ("check_ms", "a site: signatures of the cohort"),
        ("server_ms", "coordinator: the sum"),
        ("reserve_ms", "a site: ledger reservation"),
    ):
        times = result[name]
        print(f"{text:34s} {times['median']:7.2f} ms, at most {times['largest']:.2f} ms")
    print(f"{'bytes of an answer':34s} {result['bytes']} = {result['bytes_ratio']:.5f} x float32")
    print(f"{'added to the sensitivity':34s} {result['added_sensitivity']:.1e} of it by rounding")
    if given.json:
        print(json.dumps({"secure_sum": result}))


if __name__ == "__main__":
    main()
