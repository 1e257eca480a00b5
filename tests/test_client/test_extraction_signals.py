"""Resampling, speeds, episodes and levels on signals with closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from client.extraction.behaviour.signals import (
    deviation_from_median,
    episodes,
    from_steps,
    mean_departure,
    resample,
    robust_z,
    running_level,
    speed,
)


def irregular_times(count: int, seed: int = 3) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).uniform(0.02, 0.06, size=count))


def test_a_ramp_sampled_irregularly_is_resampled_exactly():
    times = irregular_times(400)
    ramp = (2.0 * times + 1.0)[:, None]
    result = resample(times, ramp, rate_hz=10.0, count=100, start_s=times[0])[:, 0]
    middles = times[0] + (np.arange(100) + 0.5) / 10.0
    assert result == pytest.approx(2.0 * middles + 1.0, abs=1e-9)


def test_a_slow_wave_keeps_its_height_and_a_fast_one_is_not_folded():
    times = np.arange(3000) / 100.0
    slow = np.sin(2 * np.pi * 0.5 * times)[:, None]
    # 11 Hz sampled at 10 Hz without averaging would come out as a wave of 1 Hz and height 1.
    fast = np.sin(2 * np.pi * 11.0 * times)[:, None]
    kept = resample(times, slow, rate_hz=10.0, count=299)
    folded = resample(times, fast, rate_hz=10.0, count=299)
    assert np.abs(kept).max() == pytest.approx(1.0, abs=0.02)
    assert np.abs(folded).max() < 0.15


def test_a_short_gap_is_bridged_and_a_long_one_is_masked():
    times = np.arange(300) / 30.0
    values = np.ones((300, 1))
    values[(times > 2.0) & (times < 2.25)] = np.nan
    values[(times > 5.0) & (times < 6.0)] = np.nan
    result = resample(times, values, rate_hz=10.0, count=100)[:, 0]
    assert np.isfinite(result[15:45]).all()
    assert np.isnan(result[51:59]).all()
    assert np.isfinite(result[61:]).all()


def test_nothing_measured_gives_nothing():
    times = np.arange(30) / 30.0
    assert np.isnan(resample(times, np.full((30, 2), np.nan), rate_hz=10.0, count=10)).all()


def test_a_rate_above_the_frame_rate_interpolates():
    times = np.arange(20) / 10.0
    result = resample(times, times[:, None], rate_hz=40.0, count=80)[:, 0]
    middles = (np.arange(80) + 0.5) / 40.0
    inside = middles < times[-1] - 0.05
    assert result[inside] == pytest.approx(middles[inside], abs=1e-9)
    assert np.isfinite(result[: np.flatnonzero(middles <= times[-1] + 0.05)[-1]]).all()


def test_speed_of_a_ramp_is_its_slope():
    assert speed(np.arange(10) * 0.3, rate_hz=10.0) == pytest.approx(np.full(10, 3.0))


def test_steps_become_samples_and_gaps_stay_local():
    assert from_steps(np.array([1.0, 3.0, np.nan, np.nan])).tolist()[:3] == [1.0, 2.0, 3.0]
    assert np.isnan(from_steps(np.array([1.0, 3.0, np.nan, np.nan]))[3])


def test_a_square_smile_is_one_episode_of_its_length():
    wave = np.zeros(100)
    wave[20:50] = 0.8
    (smile,) = episodes(wave, rate_hz=10.0)
    assert (smile.start_s, smile.duration_s, smile.peak) == (2.0, 3.0, 0.8)


def test_noise_between_the_thresholds_does_not_cut_an_episode():
    wave = np.concatenate([[0.0], np.tile([0.6, 0.4], 20), [0.0]])
    assert len(episodes(wave, rate_hz=10.0)) == 1
    assert len(episodes(wave, rate_hz=10.0, on=0.5, off=0.5, min_s=0.0)) == 20


@pytest.mark.parametrize(("samples", "found"), [(2, 0), (3, 1)])
def test_episodes_below_300_ms_are_dropped(samples, found):
    wave = np.zeros(20)
    wave[5 : 5 + samples] = 1.0
    assert len(episodes(wave, rate_hz=10.0)) == found


def test_a_missing_sample_ends_an_episode():
    wave = np.full(20, 0.9)
    wave[10] = np.nan
    assert [smile.duration_s for smile in episodes(wave, rate_hz=10.0)] == [1.0, 0.9]


def test_the_deviation_is_from_the_subjects_own_median():
    assert deviation_from_median(np.array([1.0, 2.0, np.nan, 9.0]))[[0, 1, 3]].tolist() == [
        -1,
        0,
        7,
    ]


def test_robust_z_of_normal_noise_has_unit_spread():
    noise = np.random.default_rng(4).normal(5.0, 2.0, size=20_000)
    assert robust_z(noise).std() == pytest.approx(1.0, abs=0.02)


def test_the_running_level_follows_a_drift_and_ignores_a_burst():
    times = np.arange(1500) / 50.0
    drift = 0.1 * times
    burst = np.where((times > 10.0) & (times < 10.3), 1.0, 0.0)
    level = running_level(times, (drift + burst)[:, None], window_s=2.0)[:, 0]
    inside = (times > 1.5) & (times < 28.5)
    assert level[inside] == pytest.approx(drift[inside], abs=0.03)


def test_the_departure_is_the_mean_distance_of_the_columns_from_their_levels():
    times = np.arange(1500) / 50.0
    burst = np.where((times > 10.0) & (times < 10.3), 1.0, 0.0)
    columns = np.column_stack([0.1 * times + burst, -2.0 * burst, 0.0 * burst])
    departure = mean_departure(times, columns, window_s=2.0)
    inside = (times > 1.5) & (times < 28.5)
    assert departure[inside] == pytest.approx(burst[inside], abs=0.03)
    columns[700, 1] = np.nan
    assert np.isnan(mean_departure(times, columns, window_s=2.0)[700])
