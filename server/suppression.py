"""Which cells of several tables must be withheld, so that nothing gives a small one away.

Tables share margins: the women of an age band are the band minus its men. What is published are
equations; each withheld cell stands in two of them, its row's and its column's, and each withheld
margin in its own line's and in the total's. So the withheld cells are the edges of a graph whose
nodes are the equations, and a cell can be worked out exactly if its edge is a bridge: if it is on
no cycle, along which it could be raised while its neighbours are lowered.

Source: Gusfield 1988 (security of two-way tables), doi:10.1137/0217034; Cox 1980 (complementary
suppression), doi:10.1080/01621459.1980.10477481.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from privacy.counts import suppress_small_cells

Cell = tuple[str, str]

CROSS = " x "
"""Between two attributes in the name of the table of both; a space is between their groups."""


def hide_cells(counts: Mapping[Cell, float], *, min_cell: int) -> frozenset[Cell]:
    """Cells that must be withheld; the same ones in whatever order the counts come.

    Args:
        counts: Subjects of every cell that is not known to be empty, by attribute and group.
        min_cell: Smallest count that may be shown.

    Guarantees:
        No withheld count follows from the published ones, the total included; and the withheld
        cells of no attribute, row or column are together fewer than ``min_cell``, unless all of
        it is withheld.

    >>> counts = {("sex", "female"): 40.0, ("sex", "male"): 50.0, ("sex", "other"): 4.0}
    >>> sorted(group for _, group in hide_cells(counts, min_cell=10))
    ['female', 'other']
    """
    ordered = dict(sorted(counts.items()))
    hidden: set[Cell] = set()
    attributes = dict.fromkeys(attribute for attribute, _ in ordered)
    for attribute in attributes:
        if CROSS not in attribute:
            hidden |= _hide_together(_cells_of(ordered, attribute), hidden, ordered, min_cell)
    crossed = [_Table(_cells_of(ordered, name)) for name in attributes if CROSS in name]
    while True:
        more = set().union(*(_hide_crossed(table, hidden, ordered, min_cell) for table in crossed))
        if more <= hidden:
            return frozenset(hidden)
        hidden |= more


@dataclass(frozen=True)
class _Table:
    """A table of two attributes, as its cells.

    Attributes:
        cells: Its cells.
    """

    cells: tuple[Cell, ...]

    def lines(self) -> dict[Cell, tuple[Cell, ...]]:
        """The cells of each row and column, by the margin that is their sum."""
        found: dict[Cell, list[Cell]] = {}
        for cell in self.cells:
            for margin in margins_of(cell):
                found.setdefault(margin, []).append(cell)
        return {margin: tuple(cells) for margin, cells in found.items()}


def margins_of(cell: Cell) -> tuple[Cell, Cell]:
    """The two cells of which a cell of a crossed table is a part.

    >>> margins_of(("age_band x sex", "60+ male"))
    (('age_band', '60+'), ('sex', 'male'))
    """
    attributes, groups = cell[0].split(CROSS), cell[1].rsplit(" ", 1)
    return (attributes[0], groups[0]), (attributes[1], groups[1])


def _cells_of(counts: Iterable[Cell], attribute: str) -> tuple[Cell, ...]:
    return tuple(cell for cell in counts if cell[0] == attribute)


def _hide_together(
    cells: Sequence[Cell], hidden: set[Cell], counts: Mapping[Cell, float], min_cell: int
) -> set[Cell]:
    """What must be hidden of cells whose sum may be known."""
    found = np.array([counts[cell] for cell in cells])
    gone = suppress_small_cells(found, min_cell) | np.array([cell in hidden for cell in cells])
    while gone.any() and not gone.all() and (gone.sum() == 1 or found[gone].sum() < min_cell):
        gone[int(np.argmin(np.where(gone, np.inf, found)))] = True
    return {cell for cell, is_gone in zip(cells, gone, strict=True) if is_gone}


def _hide_crossed(
    table: _Table, hidden: set[Cell], counts: Mapping[Cell, float], min_cell: int
) -> set[Cell]:
    """What one crossed table adds to the cells that are hidden: its own, and margins."""
    found = set(hidden)
    for margin, cells in table.lines().items():
        if margin in found:
            found.update(cells)
        found |= _hide_together(cells, found, counts, min_cell)
        gone = [cell for cell in cells if cell in found]
        unsafe = len(gone) == 1 or sum(counts[cell] for cell in gone) < min_cell
        if gone and unsafe and margin in counts:
            found.add(margin)
            found |= _hide_together(_cells_of(sorted(counts), margin[0]), found, counts, min_cell)
    for cell in sorted(_find_bridges(table, found)):
        near = [c for m in margins_of(cell) for c in table.lines()[m] if c not in found]
        found.update(sorted(near, key=lambda c: (counts[c], c))[:1])
    return found


def _find_bridges(table: _Table, hidden: set[Cell]) -> Iterator[Cell]:
    """Hidden cells of the table that could be worked out from what is shown."""
    cells = [cell for cell in table.cells if cell in hidden]
    edges: list[tuple[Cell, Cell]] = [margins_of(cell) for cell in cells]
    edges += [(margin, (margin[0], "")) for margin in table.lines() if margin in hidden]
    numbers = {node: i for i, node in enumerate(dict.fromkeys(n for edge in edges for n in edge))}
    ends = np.array([[numbers[a], numbers[b]] for a, b in edges]).reshape(-1, 2)
    whole = _count_parts(ends, len(numbers))
    for at, cell in enumerate(cells):
        if _count_parts(np.delete(ends, at, axis=0), len(numbers)) > whole:
            yield cell


def _count_parts(ends: np.ndarray[tuple[int, ...], np.dtype[np.int64]], nodes: int) -> int:
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(nodes, nodes))
    return int(connected_components(graph, directed=False, return_labels=False))
