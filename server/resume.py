"""Takes a run up again whose server app is gone, as often as it gets any further.

The engine starts a server app once and does not start it again. Whoever serves the coordinator's
folder looks here whether the latest run is conducted by anybody, and if not has the engine start
a new app on the same folder: the app goes on from the run's checkpoint.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from server.control import Engine, EngineError
from server.progress import Progress, write_progress
from server.run_folder import is_held, is_stopped, last_life, steps_done
from server.runs import Life, Run, begin_at_engine, latest_run, note_stopped, stop_at_engine
from server.workspace import Workspace
from shared_models.console import CommandError

LOOK_S = 1.0
BEGINS_WITHIN_S = 60.0
"""A server app that the engine was asked for conducts its run by then, or is not waited for."""
MOST_FRUITLESS = 5
"""Lives in a row without a step forward after which a run is given up."""


@dataclass
class RunKeeper:
    """Keeps the latest run of a coordinator's folder going.

    Attributes:
        workspace: The folder.
        engine: Its engine, which may be away.
    """

    workspace: Workspace
    engine: Engine
    _due_s: float = field(default=0.0, init=False)
    _settled: str = field(default="", init=False)

    def look(self) -> str | None:
        """Take the run up again if nobody conducts it; a sentence for people if anything was done.

        Cheap enough to be called several times a second. An engine that does not answer is asked
        again the next time.
        """
        if time.monotonic() < self._due_s:
            return None
        self._due_s = time.monotonic() + LOOK_S
        run = latest_run(self.workspace)
        if run is None or run.name == self._settled:
            return None
        try:
            if run.end is None:
                return self._keep(run)
            self._settle(run)
        except CommandError:
            return None
        return None

    def _settle(self, run: Run) -> None:
        """See to it that a run which has ended is over at the engine too."""
        if is_held(run.folder):
            return
        if is_stopped(run.folder):
            stop_at_engine(run, self.engine)
            note_stopped(run)
        self._settled = run.name

    def _keep(self, run: Run) -> str | None:
        # Looked at again after the lock: an app writes the end before it lets go of it.
        if is_held(run.folder) or run.end or not self._is_dead(run):
            return None
        life, steps = run.life, steps_done(run.folder)
        fruitless = 0 if steps > life.steps else life.fruitless + 1
        if fruitless >= MOST_FRUITLESS:
            return _give_up(run)
        stop_at_engine(run, self.engine)
        run.begin_life(Life(None, life.number + 1, fruitless, steps, time.time()))
        begin_at_engine(run, self.workspace, self.engine)
        return f"the server app of {run.name} ended; the run goes on (life {life.number + 1})."

    def _is_dead(self, run: Run) -> bool:
        """Whether a run that nobody conducts is not about to be."""
        life = run.life
        if life.run_id is not None and last_life(run.folder) == str(life.run_id):
            return True
        waited_s = time.time() - life.began_s
        # A clock that was set back must not make anybody wait for ever.
        if waited_s > BEGINS_WITHIN_S or waited_s < -BEGINS_WITHIN_S:
            return True
        return life.run_id is not None and self._is_over(life.run_id)

    def _is_over(self, run_id: int) -> bool:
        try:
            return self.engine.run_state(run_id).is_over
        except EngineError:
            # Another database: the engine knows nothing of the run.
            return True


def _give_up(run: Run) -> str:
    """End a run whose server app ends again and again at the same step."""
    last = run.progress or Progress("", 0, 0, "failed")
    reason = last.detail or "its log, logs/superexec.log, may say why"
    detail = f"The server app ended {MOST_FRUITLESS} times without a step forward: {reason}"
    ended = {"phase": "failed", "waiting_for": (), "detail": detail}
    write_progress(run.folder, Progress(**{**vars(last), **ended}))
    return f"{run.name} is given up. {detail}"
