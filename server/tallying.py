"""Which tallies the sites are asked for after a round, and what their answers stand for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from privacy.secure_sum import FloatArray
from server.groups import BY_SITE, Cell
from shared_models.consortium import TALLY_SENSITIVITY, ConsortiumConfig
from shared_models.messages import TallyReply
from shared_models.tallies import GroupTally

WITHIN_SITES = ("age_band", "sex")
"""Attributes whose groups are also told within each site, where the study asks for it."""


def tally_shape(config: ConsortiumConfig, server_round: int) -> tuple[int, int]:
    """Rows and columns of a site's tallies after a round."""
    cells = len(list(config.tally_groups(server_round)))
    return cells, 2 * config.fairness.bins + 3


def tallies_of(
    answer: TallyReply, config: ConsortiumConfig, *, noise_multiplier: float
) -> list[GroupTally]:
    """A site's tallies, with its own row at the last round, and groups within it if asked for.

    Args:
        answer: As the site sent it, of the round's shape.
        config: The study.
        noise_multiplier: Of the site's noise.
    """
    stddev = noise_multiplier * TALLY_SENSITIVITY
    tallies = [
        GroupTally(attribute, group, np.asarray(row), stddev)
        for (attribute, group), row in zip(
            config.tally_groups(answer.server_round), answer.tallies, strict=True
        )
    ]
    if answer.server_round == config.training.rounds:
        overall = next(tally for tally in tallies if tally.attribute == "overall")
        tallies.append(replace(overall, attribute="site", group=answer.site_id))
        tallies += [
            replace(tally, attribute=attribute, group=group)
            for tally in tallies
            if config.fairness.intersections and tally.attribute in WITHIN_SITES
            for attribute, group in [within_site(answer.site_id, tally.attribute, tally.group)]
        ]
    return tallies


def within_site(site_id: str, attribute: str, group: str) -> Cell:
    """The cell of a group within one site.

    >>> within_site("north", "sex", "male")
    ('site x sex', 'north male')
    """
    return f"{BY_SITE}{attribute}", f"{site_id} {group}"


def summed_tallies(
    values: FloatArray, config: ConsortiumConfig, *, server_round: int, noise_stddev: float
) -> list[GroupTally]:
    """Tallies of all sites together; no site's own table can be seen."""
    cells = list(config.tally_groups(server_round))
    rows = values.reshape(len(cells), -1)
    return [
        GroupTally(attribute, group, row, noise_stddev)
        for (attribute, group), row in zip(cells, rows, strict=True)
    ]


def expected_cells(config: ConsortiumConfig, server_round: int) -> list[Cell]:
    """Groups of subjects that are to be measured after a round."""
    cells = list(config.subject_groups(server_round))
    if server_round == config.training.rounds:
        groups = [cell for cell in cells if cell[0] in WITHIN_SITES]
        cells += [("site", entry.id) for entry in config.sites]
        if config.fairness.intersections and config.privacy.mode != "distributed":
            cells += [within_site(entry.id, *cell) for entry in config.sites for cell in groups]
    return cells
