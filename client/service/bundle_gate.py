"""The gate of a site's networked process: no bundle goes further unless the site approved its hash.

The engine's own way to restrict bundles works with its app store only. This gate puts the site's
list in its place, at the one function of the engine that fetches a bundle for a new run. A bundle
that is not on the list is answered by the engine's own refusal, before anything in it is unpacked,
read as configuration, stored or run.

**Guarantees.** The hash is computed here over the bytes that arrived; what the sender states about
them counts only against it. Runs that are not led by a server app are refused too, whatever their
bundle. An empty list refuses everything. The gate changes private functions of the engine, so it
first compares their source with the one it was written for and refuses to install itself on any
other: an upgrade of the engine can stop a site, but not open it.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flwr.supercore.fab import Fab
    from flwr.supercore.run import Run

# Imported by name, never as an attribute of its package: packages of the engine hide modules behind
# functions of the same name, and setting an attribute on a function would gate nothing.
ENGINE_MODULE = "flwr.supernode.start_client_internal"

GATED_SOURCE = {
    "start_client_internal": "9e89a6eb68fbec6821e817cd2c09f7894fc7b0f5725c2365b19a7122307f11f3",
    "_pull_and_store_message": "eaf5d0e36dc34e4cf46a490511d077ac55cc8edbbcdbe938c1f6dbcb758628be",
    "_verify_fab": "dc3eb78d803b8fe9a65bc704e17da8b58e9f43020b43bf2ba0ba4812483634aa",
}
"""SHA-256 of the source of each function that the gate replaces or relies on, flwr 1.41."""

REFUSAL = (
    "bundle_not_approved: this site has not approved the bundle of the run; its people read it "
    "with 'vultus-site approve'"
)
APPROVED_KIND = "flwr-serverapp"


class GateError(RuntimeError):
    """The engine is not the one that the gate was written for."""


@dataclass
class BundleGate:
    """Which bundles may pass.

    Attributes:
        approved: SHA-256 of approved bundles, hexadecimal.
        on_refusal: Called with each bundle that is refused, as it arrived.
        on_contact: Called whenever the coordinator is about to be asked for messages.
    """

    approved: frozenset[str]
    on_refusal: Callable[[bytes], None]
    on_contact: Callable[[], None]
    _kinds: dict[int, str] = field(default_factory=dict, init=False, repr=False)

    def admits(self, fab: Fab) -> bool:
        """Whether the bytes that arrived are approved."""
        digest = hashlib.sha256(fab.content).hexdigest()
        admitted = digest in self.approved and fab.hash_str == digest
        if not admitted:
            self.on_refusal(fab.content)
        return admitted

    def noting_kind(self, get_run: Callable[[int], Run]) -> Callable[[int], Run]:
        """Fetch a run's description and remember what kind of app leads it."""

        def fetch(run_id: int) -> Run:
            run = get_run(run_id)
            self._kinds[run_id] = run.primary_task_type
            return run

        return fetch

    def without_licence(self, get_fab: Callable[[str, int], Fab]) -> Callable[[str, int], Fab]:
        """Fetch a bundle and drop what the sender says about its verification.

        The engine asks for a licence before it calls the check that is the gate: a word that means
        nothing stands there, or nothing at all for a run that may not be served whatever its hash.
        """

        def fetch(fab_hash: str, run_id: int) -> Fab:
            fab = get_fab(fab_hash, run_id)
            if self._kinds.get(run_id) == APPROVED_KIND:
                return replace(fab, verifications={"valid_license": "decided by the site"})
            self.on_refusal(fab.content)
            return replace(fab, verifications={})

        return fetch


def install_gate(gate: BundleGate) -> None:
    """Put the gate into the engine of this process, before the engine starts.

    Raises:
        GateError: If the engine's functions differ from those of flwr 1.41.
    """
    engine = importlib.import_module(ENGINE_MODULE)
    _refuse_unknown(engine)
    pull = engine._pull_and_store_message  # noqa: SLF001 - compared with the pinned source above

    def gated_pull(
        *, get_run: Callable[[int], Run], get_fab: Callable[[str, int], Fab], **others: object
    ) -> int | None:
        gate.on_contact()
        # Any entity makes the engine verify; which one is asked nowhere but in its own check.
        others["trusted_entities"] = {"site": "approvals"}
        run_id: int | None = pull(
            get_run=gate.noting_kind(get_run), get_fab=gate.without_licence(get_fab), **others
        )
        return run_id

    def gated_verify(fab: Fab, _trusted: dict[str, str]) -> bool:
        return gate.admits(fab)

    _replace(engine, "_pull_and_store_message", gated_pull)
    _replace(engine, "_verify_fab", gated_verify)
    code = engine.FAB_VERIFICATION_ERROR.code
    _replace(engine, "FAB_VERIFICATION_ERROR", type(engine.FAB_VERIFICATION_ERROR)(code, REFUSAL))


def _refuse_unknown(engine: object) -> None:
    """Refuse an engine whose functions are missing or read differently."""
    if not isinstance(engine, ModuleType):
        msg = f"Expected the module {ENGINE_MODULE}, got {type(engine).__name__}."
        raise GateError(msg)
    changed = [name for name, digest in GATED_SOURCE.items() if _source(engine, name) != digest]
    if changed:
        msg = (
            f"Expected {', '.join(changed)} of {ENGINE_MODULE} as in flwr 1.41, got other code. "
            "The site does not start, because its gate against unapproved bundles might not hold: "
            "install the version of flwr that vultus names."
        )
        raise GateError(msg)


def _source(engine: ModuleType, name: str) -> str:
    function = getattr(engine, name, None)
    if not inspect.isfunction(function):
        return ""
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()


def _replace(engine: ModuleType, name: str, value: object) -> None:
    if not hasattr(engine, name):
        msg = f"Expected {name} in {ENGINE_MODULE}, got none."
        raise GateError(msg)
    setattr(engine, name, value)
