"""Which versions of Vultus may take part in one consortium.

Versions that differ in their last number alone speak the same messages, derive the same plans and
read the same files; a change of any of these raises one of the first two numbers.
"""

from __future__ import annotations

from packaging.version import InvalidVersion, Version

DISTRIBUTION = "vultus"


def is_compatible(first: str, second: str) -> bool:
    """Whether parties with these versions can work together: same major and minor number.

    What is no version fits nothing, not even itself.

    >>> is_compatible("0.2.0", "0.2.7"), is_compatible("0.2.0", "0.3.0")
    (True, False)
    >>> is_compatible("unknown", "unknown")
    False
    """
    series = _series(first)
    return series is not None and series == _series(second)


def explain(*, here: str, there: str, whose: str) -> str:
    """Why two versions do not fit, and what mends it; empty if they do.

    Args:
        here: Version installed at the reader's.
        there: The other party's version.
        whose: The other party, as the sentence names it.

    >>> explain(here="0.2.1", there="0.2.0", whose="site north")
    ''
    >>> print(explain(here="0.3.0", there="0.2.4", whose="site north"))
    Expected vultus 0.3.x at site north (0.3.0 is installed here), got 0.2.4: install the same \
major and minor version at both ends.
    """
    if is_compatible(here, there):
        return ""
    series = _series(here)
    wanted = f"{series[0]}.{series[1]}.x" if series else "a released version"
    return (
        f"Expected {DISTRIBUTION} {wanted} at {whose} ({here} is installed here), got {there}: "
        "install the same major and minor version at both ends."
    )


def _series(text: str) -> tuple[int, int] | None:
    try:
        version = Version(text)
    except InvalidVersion:
        return None
    return version.major, version.minor
