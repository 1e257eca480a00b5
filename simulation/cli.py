"""``vultus-simulate``: the whole consortium on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.models import OptionInfo

from shared_models.console import CommandLine, InputError, Screen, report_errors
from simulation.comparison.command import compare
from simulation.effect_pages.command import show_effects
from simulation.options import (
    EffectsOption,
    EngineName,
    ModeName,
    TrainableName,
    read_effects,
    require_new,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from server.history import RunReport
    from simulation.study import OnProgress

app = CommandLine(
    name="vultus-simulate",
    about=(
        "Simulate a consortium on this machine: made-up patients whose truth is known, real sites, "
        "real training. Research software: no output is a diagnosis. "
        "Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 refused by policy."
    ),
)


def Curve(text: str) -> OptionInfo:  # noqa: N802 - stands where typer.Option stands
    """An option that takes a curve over time."""
    option: OptionInfo = typer.Option(metavar="CURVE", help=text)
    return option


@app.command()
@report_errors()
def run(  # noqa: PLR0913, PLR0917 - one parameter an option
    sites: Annotated[int, typer.Option(min=1, help="Number of sites.")] = 8,
    subjects: Annotated[int, typer.Option(min=2, help="Subjects at each site.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Training rounds.")] = 30,
    epsilon: Annotated[
        float, typer.Option(min=0.01, help="Privacy promised to each subject; smaller is safer.")
    ] = 3.0,
    mode: Annotated[
        ModeName,
        typer.Option(
            help="local: each site adds full noise. distributed: a secure sum carries one noise. "
            "off: no privacy at all."
        ),
    ] = ModeName.LOCAL,
    network: Annotated[str, typer.Option(help="Network to train.")] = "behaviour_net",
    trainable: Annotated[
        TrainableName, typer.Option(help="Train the head on the shipped trunk, or everything.")
    ] = TrainableName.HEAD,
    engine: Annotated[
        EngineName, typer.Option(help="local: in this process. ray: Flower's Ray engine.")
    ] = EngineName.LOCAL,
    workers: Annotated[int, typer.Option(min=1, help="Processes of the local engine.")] = 1,
    mitigate: Annotated[
        list[str] | None,
        typer.Option(help="worst_group, recalibrate, or a weight as sex.female=1.5; repeatable."),
    ] = None,
    planted_bias: Annotated[
        str | None,
        typer.Option(help="A group that shows severity otherwise: sex=female, sex=male, age=60."),
    ] = None,
    importance: Annotated[
        bool, typer.Option("--importance", help="Also sum which behaviours move the scores.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Fixes everything, noise included.")] = 0,
    effects: EffectsOption = None,
    out: Annotated[Path, typer.Option(help="New folder for all that is made.")] = Path("study"),
    json: Annotated[bool, typer.Option("--json", help="Last line: one object.")] = False,
) -> None:
    """Run a whole study: cohort, sites, private training, evaluation, report."""
    screen = Screen(json=json)
    require_new(out)
    _require_cohort(mode, sites)
    from simulation.mitigation_options import with_mitigation
    from simulation.study import design_study, peak_memory_bytes, run_study

    try:
        design = design_study(
            sites=sites,
            subjects=subjects,
            rounds=rounds,
            epsilon=epsilon,
            mode=mode.value,
            network=network,
            trainable=trainable.value,
            seed=seed,
            engine=engine.value,
            workers=workers,
            importance=importance,
            effects=read_effects(effects),
        )
        design = with_mitigation(design, mitigate or (), planted_bias)
    except ValueError as error:
        raise InputError(str(error)) from error
    screen.say(f"{sites} sites x {subjects} subjects, {rounds} rounds, seed {seed}, into {out}")
    with _progress(screen) as on_progress:
        report = run_study(design, out, on_progress)
    page = (out / "run" / "report.html").absolute()
    _show_result(screen, report, peak_bytes=peak_memory_bytes())
    screen.next(f"open {page} in a browser")
    screen.answer(
        {"sites": sites, "subjects": sites * subjects, **_summary(report), "report": str(page)}
    )


app.command()(compare)
app.command("effects")(show_effects)


@app.command()
@report_errors()
def cohort(  # noqa: PLR0913, PLR0917 - one parameter an option
    out: Annotated[Path, typer.Option(help="New folder for the sites.")],
    sites: Annotated[int, typer.Option(min=1, help="Number of sites.")] = 8,
    subjects: Annotated[int, typer.Option(min=1, help="Subjects at each site.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Fixes everything.")] = 0,
    effects: EffectsOption = None,
    video: Annotated[
        bool, typer.Option("--video", help="Render a face video for each recording instead.")
    ] = False,
    video_s: Annotated[float, typer.Option(min=2, help="Length of each video in seconds.")] = 20.0,
    json: Annotated[bool, typer.Option("--json", help="Last line: one object.")] = False,
) -> None:
    """Write site folders of made-up patients, with features or with videos to extract from."""
    screen = Screen(json=json)
    require_new(out)
    from simulation.study import design_study, write_cohort, write_video_cohort

    design = design_study(
        sites=sites,
        subjects=subjects,
        rounds=30,
        epsilon=3.0,
        mode="local",
        network="behaviour_net",
        trainable="head",
        seed=seed,
        effects=read_effects(effects),
    )
    out.mkdir(parents=True, exist_ok=True)
    with _progress(screen) as on_progress:
        if video:
            folders = write_video_cohort(design, out, on_progress, video_s=video_s)
        else:
            folders = write_cohort(design, out, on_progress)
    screen.say(f"{len(folders)} sites of {subjects} subjects lie in {out / 'sites'}.")
    if video:
        screen.next(f"vultus-site check {folders[0]}", f"vultus-site extract {folders[0]}")
    else:
        screen.next(f"vultus-site inspect {folders[0]}")
    screen.answer({"sites": [str(folder) for folder in folders]})


@app.command()
@report_errors()
def render(  # noqa: PLR0913, PLR0917 - one parameter an option
    out: Annotated[Path, typer.Option(help="Video to write, .mp4.")],
    seconds: Annotated[float, typer.Option(min=0.2, help="Length.")] = 6.0,
    rate: Annotated[float, typer.Option(min=1, help="Frames per second.")] = 30.0,
    smile: Annotated[str, Curve("0 neutral, 1 the full smile.")] = "0:0",
    blink: Annotated[str, typer.Option(metavar="TIMES", help="Seconds, as in '1.0,2.5'.")] = "",
    brow: Annotated[str, Curve("1 frowns, -1 raises the brows.")] = "0:0",
    inner_brow: Annotated[str, Curve("1 raises the inner ends of the brows.")] = "0:0",
    gaze_down: Annotated[str, Curve("1 looks fully down.")] = "0:0",
    gaze_side: Annotated[str, Curve("Eyes to the right (1) or left (-1) of the image.")] = "0:0",
    corner_drop: Annotated[str, Curve("1 draws the mouth corners down.")] = "0:0",
    dimple: Annotated[
        str, Curve("1 tightens the mouth corner at the right of the image, -1 the other.")
    ] = "0:0",
    jaw: Annotated[str, Curve("1 opens the mouth wide.")] = "0:0",
    pitch: Annotated[str, Curve("Head up (positive) or down, degrees.")] = "0:0",
    yaw: Annotated[str, Curve("Head turned, degrees.")] = "0:0",
    roll: Annotated[str, Curve("Head tilted, degrees.")] = "0:0",
    occlusion: Annotated[str, Curve("Part of the head behind a bar, from the chin up.")] = "0:0",
    away: Annotated[str, Curve("1 has left the picture, 0 is in its middle.")] = "0:0",
    brightness: Annotated[str, Curve("1 is well lit, 0 black, 4 washed out.")] = "0:1",
    two_faces: Annotated[bool, typer.Option("--two-faces", help="A second person.")] = False,
    dark: Annotated[bool, typer.Option("--dark", help="Too little light.")] = False,
    blur: Annotated[bool, typer.Option("--blur", help="Out of focus.")] = False,
) -> None:
    """Render a face video whose behaviour is commanded, to try an extractor on.

    A curve is a list of time:value knots in seconds, joined by straight lines: '0:0,2:1,4:0'.
    """
    screen = Screen()
    from simulation.commands import BehaviourCommand, parse_curve, parse_times
    from simulation.faces import render_video

    frames = max(1, round(seconds * rate))
    given = {
        "smile": smile,
        "brow": brow,
        "inner_brow": inner_brow,
        "gaze_down": gaze_down,
        "gaze_side": gaze_side,
        "corner_drop": corner_drop,
        "dimple": dimple,
        "jaw": jaw,
        "pitch_deg": pitch,
        "yaw_deg": yaw,
        "roll_deg": roll,
        "occlusion": occlusion,
        "away": away,
        "brightness": "0.08" if dark else brightness,
    }
    try:
        command = BehaviourCommand(
            duration_s=seconds,
            rate_hz=rate,
            blinks_s=parse_times(blink),
            faces=2 if two_faces else 1,
            blur_px=6.0 if blur else 0.0,
            **{name: parse_curve(text, frames, rate) for name, text in given.items()},
        )
    except ValueError as error:
        raise InputError(str(error)) from error
    written = render_video(command, out)
    screen.say(f"{written} frames at {rate:g} frames/s written to {out}.")


@app.command()
@report_errors()
def pretrain(
    out: Annotated[Path, typer.Option(help="File to write, .safetensors.")],
    size: Annotated[str, typer.Option(help="Size of the network.")] = "small",
    seed: Annotated[int | None, typer.Option(min=0, help="Other than the shipped one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Last line: one object.")] = False,
) -> None:
    """Train the trunk that ships with the package, on a made-up cohort."""
    screen = Screen(json=json)
    from shared_models.weights import digest_weights, save_weights
    from simulation.pretraining import PretrainingDesign, pretrain_trunk

    design = PretrainingDesign(size=size)
    if seed is not None:
        design = PretrainingDesign(size=size, seed=seed)
    with _progress(screen) as on_progress:
        trunk = pretrain_trunk(design, lambda done, total: on_progress("training", done, total))
    save_weights(out, trunk)
    screen.say(f"Trunk {digest_weights(trunk)[:16]} written to {out}.")
    screen.next(f"copy it to shared_models/networks/behaviour_net_{size}.safetensors")
    screen.answer({"weights_digest": digest_weights(trunk), "out": str(out)})


def _require_cohort(mode: ModeName, sites: int) -> None:
    from privacy.secure_sum import MIN_COHORT

    if mode is ModeName.DISTRIBUTED and sites < MIN_COHORT:
        msg = (
            f"Expected --sites of at least {MIN_COHORT} with --mode distributed, got {sites}: a "
            "smaller sum tells on its sites."
        )
        raise InputError(msg)


def _progress(screen: Screen) -> AbstractContextManager[OnProgress]:
    """A bar a phase."""
    from simulation.progress import show_progress

    return show_progress(screen)


def _summary(report: RunReport) -> dict[str, object]:
    """What a machine is told of a run."""
    from simulation.truth import released_truth

    final = report.final
    exact_auroc, exact_mae = released_truth(report)
    metrics = final.overall.metrics if final else {}
    auroc, mae, rmse = (metrics.get(name) for name in ("auroc", "mae", "rmse"))
    return {
        "rounds": len(report.rounds),
        "mode": report.mode,
        "delta": report.delta,
        "epsilon": {"sum": report.epsilon_sum, "site": report.epsilon_site},
        "auroc": {
            "value": auroc.value if auroc else None,
            "low": auroc.low if auroc else None,
            "high": auroc.high if auroc else None,
        },
        "mae": mae.value if mae else None,
        "rmse": rmse.value if rmse else None,
        "seconds": report.seconds,
        "weights_digest": report.weights_digest,
        "released_round": report.released_round,
        "truth": {"auroc": exact_auroc, "mae": exact_mae}
        if report.truth and report.truth.curve
        else None,
    }


def _show_result(screen: Screen, report: RunReport, *, peak_bytes: int) -> None:
    told = _summary(report)
    screen.say(
        f"Done in {report.seconds['total']:.1f} s, at most {peak_bytes / 2**20:.0f} MiB a process."
    )
    screen.say(_privacy_line(report))
    auroc = told["auroc"]
    assert isinstance(auroc, dict)  # noqa: S101 - narrows the object above
    if auroc["value"] is None:
        screen.say("AUROC: too uncertain to say with so few subjects and so much noise.")
    else:
        screen.say(
            f"AUROC {auroc['value']:.3f}, 95 % interval {auroc['low']:.3f} to {auroc['high']:.3f}, "
            "as the coordinator sees it."
        )
    truth = told["truth"]
    if isinstance(truth, dict) and truth["auroc"] is not None:
        screen.say(f"AUROC {truth['auroc']:.3f} exactly, which only a simulation can know.")
    if report.release:
        screen.say(f"Released: the model of round {report.released_round}. {report.release.why}")
    screen.say(report.notice)


def _privacy_line(report: RunReport) -> str:
    if report.epsilon_site is None:
        return "Privacy: none. This mode is for comparison on made-up patients only."
    return (
        f"Privacy of each subject at delta {report.delta:g}: epsilon {report.epsilon_site:.2f} "
        f"from one site's own releases, {report.epsilon_sum:.2f} from the sum of all sites."
    )
