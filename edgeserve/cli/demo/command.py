"""`edgeserve demo`: from the recordings to the tables."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeserve.cli.console import data_console, talk_console
from edgeserve.cli.options import PulsarOption, WebOption, broker_address
from edgeserve.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeserve.address import LocalAddress, PulsarAddress
    from edgeserve.cli.demo.report import Report

# The last three of the ten. Over all 120 ways to hold out three people, the accuracies are 0.76 on average with
# one sensor and 0.84 with both (standard deviations 0.06 and 0.03); with these three, they are near that.
HELD_OUT = "8,9,10"


def demo_command(
    pulsar: PulsarOption = None,
    web: WebOption = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="How long to stream. Default: 20, or all with --speed.")
    ] = None,
    speed: Annotated[
        float | None, typer.Option(min=0.1, help="How many times as fast as recorded. Default: all in --seconds.")
    ] = None,
    held_out: Annotated[
        str, typer.Option(metavar="PEOPLE", help="Whose recordings to stream, of 1 to 10; the others train.")
    ] = HELD_OUT,
    gyro_loss: Annotated[
        float, typer.Option(min=0, max=1, help="Lose this share of the gyroscope's windows, to see what the join does.")
    ] = 0,
    log: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to write replay logs. Default: with edgeserve's files.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The final numbers as one object.")] = False,
) -> None:
    """Stream real wrist-sensor recordings, join them by capture time, and tell who does which exercise."""
    from edgeserve.cli.demo.show import result_tables

    try:
        report = _run(
            broker_address(pulsar, web), _people(held_out), seconds=seconds, speed=speed, gyro_loss=gyro_loss, log=log
        )
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(report.as_json()))
    else:
        data_console().print(result_tables(report))
    talk_console().print(
        f"Replay logs of this run: {report.log_path}\nTo look at them: {opening_command(report.log_path)}"
    )


def opening_command(log_path: str) -> str:
    """What opens a run's logs."""
    return f"edgeserve replay {shlex.quote(log_path)}"


def _people(held_out: str) -> list[int]:
    try:
        return sorted({int(number) for number in held_out.split(",")})
    except ValueError as error:
        raise UsageError(
            f"--held-out is {held_out!r}: expected numbers with commas between them, as in 8,9,10"
        ) from error


def _run(
    broker: PulsarAddress | LocalAddress,
    held_out: Sequence[int],
    *,
    seconds: float | None,
    speed: float | None,
    gyro_loss: float,
    log: Path | None,
) -> Report:
    from edgeserve.cli.demo.pipeline import Demo, Pipeline
    from edgeserve.cli.demo.prediction import train
    from edgeserve.cli.demo.recordings import cut_windows, dataset_path, load_recordings, split_by_person
    from edgeserve.cli.demo.replay import Replay, plan_replay
    from edgeserve.cli.demo.report import Report
    from edgeserve.cli.demo.show import live_progress

    train_on, stream = split_by_person(load_recordings(dataset_path()), held_out)
    known = cut_windows(train_on)
    windows, speed = plan_replay(cut_windows(stream), seconds, speed)
    replay = Replay(windows, speed)
    talk = talk_console()
    talk.print(f"Training two models: {len(train_on)} recordings, {len(known)} windows of 4 s.")
    demo = Demo(broker, replay, train(known, ["accel"]), train(known, ["accel", "gyro"]), gyro_loss, log)
    talk.print(
        f"Streaming {len(windows)} windows of each sensor, of people that the models have not seen "
        f"({', '.join(map(str, held_out))}), {speed:.3g} times as fast as recorded, in "
        f"{replay.duration_ms / 1000:.3g} s, over {broker}"
    )
    pipeline = Pipeline(demo)
    try:
        pipeline.open()
        with live_progress(talk, pipeline, replay):
            pipeline.run()
    finally:
        pipeline.close()
    return Report(
        str(broker),
        pipeline.run_id,
        held_out,
        len(windows),
        speed,
        pipeline.one_sensor.tally(),
        pipeline.two_sensors.tally(),
        pipeline.stats(),
        str(pipeline.log_path),
    )
