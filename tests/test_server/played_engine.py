"""An engine that starts no process: it numbers runs and says of them what a test wants."""

from pathlib import Path

from server.control import Engine, EngineError, NotRunningError, RunState


class PlayedEngine(Engine):
    """Remembers how runs were started; each is running until a test or a stop ends it."""

    def __init__(self) -> None:
        super().__init__("played", ca_certificate=Path("played"))
        self.started: list[tuple[bytes, str, dict[str, str]]] = []
        self.states: dict[int, RunState] = {}
        self.stopped: list[int] = []
        self.is_away = False

    def start_run(self, bundle: bytes, sha256: str, *, config: dict[str, str]) -> int:  # type: ignore[override]
        self._answer()
        self.started.append((bundle, sha256, dict(config)))
        number = len(self.started)
        self.states[number] = RunState(number, "running", "", "")
        return number

    def stop_run(self, run_id: int) -> None:
        self._answer()
        self.stopped.append(run_id)
        self.states[run_id] = RunState(run_id, "finished", "stopped", "")

    def run_state(self, run_id: int) -> RunState:
        self._answer()
        if run_id not in self.states:
            msg = "no such run"
            raise EngineError(msg)
        return self.states[run_id]

    def end(self, outcome: str, details: str = "") -> None:
        """Let the engine count its latest run as over."""
        number = len(self.started)
        self.states[number] = RunState(number, "finished", outcome, details)

    def _answer(self) -> None:
        if self.is_away:
            msg = "Expected the coordinator to answer"
            raise NotRunningError(msg)
