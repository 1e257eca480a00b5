"""A coordinator and three sites as real processes over TLS, driven by their command lines."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from deployed_consortium import (
    ROUNDS,
    SEVERITIES,
    SITES,
    SMILES,
    Deployment,
    RecordingProxy,
    call,
    conduct,
    free_port,
    last_json,
    make_consortium,
    read_report,
    refusals,
    show_severity,
)

from client.extraction.face import FaceTracker
from client.extraction.video import read_frames
from client.site import Site
from client.storage.store import FeatureStore
from privacy.vault import Vault
from shared_models.features import BEHAVIOUR, BehaviourFeatures

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
]


@pytest.fixture(scope="module")
def deployed(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Deployment:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    root = tmp_path_factory.mktemp("deployed")
    found = Deployment(root, RecordingProxy(free_port()))
    make_consortium(found, with_videos=videos_and_model(request))
    conduct(found)
    return found


def stored_features(site: Site, names: Collection[str]) -> dict[str, BehaviourFeatures]:
    """Features of the accepted recordings among these, in the order asked for."""
    store = FeatureStore(site.paths.store, Vault(site.storage_key), site_id=site.id)
    owners = {one.recording_id: one.subject_id for one in store.records()}
    found = {name: store.features(owners[name], name) for name in names}
    return {name: features for name, features in found.items() if features is not None}


def videos_and_model(request: pytest.FixtureRequest) -> tuple[Path, Path] | None:
    """Real videos and the face model, or None where they are not there."""
    try:
        folder, model = request.getfixturevalue("assets"), request.getfixturevalue("face_model")
    except pytest.skip.Exception:
        return None
    return folder / "videos", model


def test_run_completes_all_rounds_with_all_sites(deployed: Deployment) -> None:
    assert deployed.answer["status"] == "completed"
    assert deployed.answer["rounds"] == ROUNDS
    report = read_report(deployed)
    for round_report in report["rounds"]:
        assert sorted(round_report["participants"]) == sorted(SITES)
        assert round_report["refusals"] == []


def test_weights_at_every_site_are_the_coordinators(deployed: Deployment) -> None:
    digests = set()
    for site_id in SITES:
        sent = [e["details"] for e in deployed.audit(site_id) if e["event"] == "sent"]
        masked = [d for d in sent if d["kind"] == "MaskedReply"]
        # One a round, and the tallies of the last model.
        assert len(masked) == ROUNDS + 1
        digests.add(masked[-1]["base_digest"])
    assert digests == {deployed.answer["weights_digest"]}


def test_the_coordinator_read_sums_alone(deployed: Deployment) -> None:
    report = read_report(deployed)
    assert report["mode"] == "distributed"
    sent = bytes(deployed.proxy.sent)
    assert b"masked" in sent
    assert b"tallies" not in sent
    by_site = [g for g in report["evaluations"][-1]["fairness"]["by_group"]
               if g["attribute"] == "site"]  # fmt: skip
    assert {group["state"] for group in by_site} == {"not_reported"}


def test_epsilon_is_that_of_an_independent_accountant(deployed: Deployment) -> None:
    from dp_accounting import GaussianDpEvent
    from dp_accounting.pld import PLDAccountant

    report = read_report(deployed)
    sigma, delta = report["noise_multiplier"], report["delta"]
    for noise, told in (
        (sigma, deployed.answer["epsilon"]["sum"]),
        (sigma / math.sqrt(len(SITES)), deployed.answer["epsilon"]["site"]),
    ):
        accountant = PLDAccountant()
        accountant.compose(GaussianDpEvent(noise), ROUNDS)
        assert told == pytest.approx(accountant.get_epsilon(delta), rel=5e-3)


def test_ledgers_hold_what_the_report_says(deployed: Deployment) -> None:
    for site_id in SITES:
        budget = last_json(call("vultus-site", "budget", deployed.root / site_id, "--json"))
        assert budget["spent"] == pytest.approx(deployed.answer["epsilon"]["sum"], rel=1e-6)
        assert budget["spent"] <= budget["cap"] + 1e-9


def test_run_past_the_budget_is_refused_by_name_and_spends_nothing(deployed: Deployment) -> None:
    assert deployed.second_run is not None
    told = deployed.second_run.stdout
    for site_id in SITES:
        assert f"{site_id} refused (budget" in told
        budget = last_json(call("vultus-site", "budget", deployed.root / site_id, "--json"))
        assert len([r for r in budget["releases"] if r["purpose"] == "train"]) == ROUNDS


def test_nothing_that_left_a_site_names_a_subject_a_recording_or_a_path(
    deployed: Deployment,
) -> None:
    sent = bytes(deployed.proxy.sent)
    secrets = {str(deployed.root)}
    for site_id in SITES:
        with deployed.site(site_id).paths.recordings.open(newline="") as stream:
            for row in csv.DictReader(stream):
                secrets |= {row["recording_id"], row["subject_id"], row["recorded_at"], row["file"]}
    secrets = {secret for secret in secrets if len(secret) > 5}
    assert len(secrets) > 100
    assert [secret for secret in secrets if secret.encode() in sent] == []


def test_nothing_that_left_a_site_holds_features(deployed: Deployment) -> None:
    sent = bytes(deployed.proxy.sent)
    for cohort in deployed.cohorts.values():
        for features in cohort.features:
            for clip in np.asarray(features.values, dtype=np.float32):
                # Four columns of the clip's middle: no update could hold them by chance.
                assert clip[clip.shape[0] // 2, :4].tobytes() not in sent


@pytest.mark.needs_model
def test_nothing_that_left_a_site_holds_a_frame_or_a_landmark(
    deployed: Deployment, face_model: Path
) -> None:
    sent = bytes(deployed.proxy.sent)
    video = deployed.root / SITES[1] / "videos" / "nod_30fps.mkv"
    frames = [frame.image for frame in read_frames(video)]
    assert len(frames) > 50
    for image in frames:
        middle = image[image.shape[0] // 2, image.shape[1] // 2 :][:8]
        assert middle.tobytes() not in sent
    with FaceTracker(face_model) as tracker:
        track = tracker.track(read_frames(video))
    for seen in (track.landmarks, track.blendshapes, track.head_pose_deg):
        for moment in seen.reshape(len(seen), -1):
            few = moment[:3]
            assert few.astype(np.float32).tobytes() not in sent
            assert few.astype(np.float64).tobytes() not in sent


def test_search_would_have_found_what_a_site_did_send(deployed: Deployment) -> None:
    sent = bytes(deployed.proxy.sent)
    for site_id in SITES:
        assert site_id.encode() in sent
        receipts = [e["details"] for e in deployed.audit(site_id) if e["event"] == "sent"]
        for receipt in receipts:
            if digest := receipt.get("base_digest"):
                assert digest.encode() in sent
    assert b"epsilon_spent" in sent


def test_hostile_bundle_is_refused_by_the_coordinator_with_the_reason(deployed: Deployment) -> None:
    assert deployed.hostile_run is not None
    assert deployed.hostile_run.outcome == "failed"
    assert "bundle_not_approved" in deployed.hostile_run.details
    assert deployed.hostile_sha256 in deployed.hostile_run.details


def test_hostile_bundle_is_refused_by_every_site_and_none_of_it_runs(deployed: Deployment) -> None:
    for site_id in SITES:
        assert set(refusals(deployed, site_id)) == {deployed.hostile_sha256}
    assert not (deployed.root / "hostile-code-ran").exists()


def test_site_whose_key_was_withdrawn_is_turned_away_with_the_remedy(deployed: Deployment) -> None:
    assert deployed.stranger is not None
    assert "identity.pub" in deployed.stranger.stderr


def test_site_says_that_the_coordinator_is_not_reachable(deployed: Deployment) -> None:
    assert deployed.unreachable is not None
    assert f"127.0.0.1:{deployed.proxy.port}" in deployed.unreachable.stderr
    assert "nothing listens there" in deployed.unreachable.stderr


def test_second_start_of_a_site_is_refused(deployed: Deployment) -> None:
    assert deployed.second_start is not None
    assert "already being served" in deployed.second_start.stderr


def test_status_names_sites_and_run(deployed: Deployment) -> None:
    assert [site["id"] for site in deployed.status["sites"]] == list(SITES)
    assert {site["state"] for site in deployed.idle_status["sites"]} == {"never seen"}
    assert deployed.idle_status["run"] is None
    run = deployed.status["run"]
    assert (run["id"], run["round"], run["rounds"]) == (
        deployed.answer["run_id"],
        ROUNDS,
        ROUNDS,
    )
    assert run["waiting_for"] == []


def test_report_is_one_page_without_outside_references(deployed: Deployment) -> None:
    page = (deployed.root / "page.html").read_text()
    assert not re.search(r'(src|href)="https?:', page)
    assert "no output is a diagnosis" in page


def test_sigterm_ends_every_process_cleanly(deployed: Deployment) -> None:
    assert deployed.exit_codes == dict.fromkeys(("coordinator", *SITES), 0)
    assert deployed.left_behind == []


@pytest.mark.needs_model
def test_features_follow_the_commanded_smiles(deployed: Deployment, face_model: Path) -> None:
    assert face_model.is_file()
    seen = deployed.inspected[SITES[0]]
    peaks = [seen[name]["indicators"]["smile_peak"] for name in SMILES]
    assert peaks == sorted(peaks)
    assert peaks[0] < peaks[-1]
    site = deployed.site(SITES[0])
    for name, features in stored_features(site, SMILES).items():
        peak_s, _ = SMILES[name]
        smile = np.where(features.mask[0, :, 0], features.values[0, :, 0], -np.inf)
        at_s = features.clip_start_s[0] + np.argmax(smile) / 10.0
        assert at_s == pytest.approx(peak_s, abs=0.4), name
        assert seen[name]["verdict"] == "accepted"


@pytest.mark.needs_model
def test_features_follow_the_commanded_severity(deployed: Deployment, face_model: Path) -> None:
    assert face_model.is_file()
    site = deployed.site(SITES[2])
    stored = stored_features(site, SEVERITIES)
    assert list(stored) == list(SEVERITIES)
    # Smiles grow rarer with severity, and the frown deepens.
    for measured, commanded, falls in (("smile", "smile", True), ("brow_lowering", "brow", False)):
        index = BEHAVIOUR.names.index(measured)
        seen = [f.values[..., index][f.mask[..., index]].mean() for f in stored.values()]
        asked = [
            show_severity(name, severity).curves[commanded].mean()
            for name, severity in SEVERITIES.items()
        ]
        assert asked == sorted(asked, reverse=falls), commanded
        assert seen == sorted(seen, reverse=falls), measured


@pytest.mark.needs_model
def test_real_videos_are_judged(deployed: Deployment, face_model: Path) -> None:
    assert face_model.is_file()
    verdicts = {n: r["verdict"] for n, r in deployed.inspected[SITES[1]].items()}
    assert verdicts["talking_man_24fps"] == verdicts["nod_30fps"] == "accepted"
    assert verdicts["no_face"] == "rejected"
