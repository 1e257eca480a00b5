"""The networks that a study may name: a registry, one file a network.

A network takes normalised clips ``[C, T, F]`` with their mask and gives, for each clip, the
severity score in standard units and the log-odds of reaching the clinical threshold. It never
mixes clips: no BatchNorm, so that a subject's gradient depends on that subject alone.
"""

from __future__ import annotations

from collections.abc import Callable

from shared_models.networks.behaviour_net import BehaviourNet, make_behaviour_net

__all__ = ["NETWORKS", "BehaviourNet", "make_network"]


NETWORKS: dict[str, Callable[[str, int], BehaviourNet]] = {"behaviour_net": make_behaviour_net}


def make_network(name: str, size: str, *, features: int) -> BehaviourNet:
    """The named network with its shipped trunk and a head of zeros.

    Args:
        name: Key of :data:`NETWORKS`.
        size: Size the network knows, such as ``"small"``.
        features: Number of feature columns F.

    Raises:
        ValueError: If the name is not in the registry.
    """
    if name not in NETWORKS:
        msg = f"Expected network.name to be one of {sorted(NETWORKS)}, got {name!r}"
        raise ValueError(msg)
    return NETWORKS[name](size, features)
