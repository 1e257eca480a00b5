"""Withheld cells, against an attacker who solves the equations that the published ones are."""

import doctest
import itertools

import numpy as np
import pytest

import server.suppression
from server.suppression import hide_cells, margins_of

BANDS, SEXES, SITES = ("18-39", "40-59", "60+", "80+"), ("female", "male", "other"), tuple("abcde")
MIN_CELL = 10


def crossed(first, second, table):
    """Counts of a table, of both its margins and of everybody."""
    (row, rows), (column, columns) = first, second
    cells = {
        (f"{row} x {column}", f"{r} {c}"): float(table[i, j])
        for (i, r), (j, c) in itertools.product(enumerate(rows), enumerate(columns))
    }
    margins = {(row, r): float(table[i].sum()) for i, r in enumerate(rows)}
    margins |= {(column, c): float(table[:, j].sum()) for j, c in enumerate(columns)}
    return {("overall", "all"): float(table.sum()), **margins, **cells}


def worked_out(counts, hidden):
    """Hidden cells that follow from the others, by linear algebra over all equations."""
    unknown = sorted(hidden)
    place = {cell: i for i, cell in enumerate(unknown)}
    lines = {}
    for cell in counts:
        if " x " in cell[0]:
            for margin in margins_of(cell):
                lines.setdefault((cell[0], margin), ([], margin))[0].append(cell)
        elif cell[0] != "overall":
            lines.setdefault(cell[0], ([], ("overall", "all")))[0].append(cell)
    system = np.zeros((len(lines), len(unknown)))
    for row, (parts, total) in zip(system, lines.values(), strict=True):
        for cell, sign in [*((part, 1) for part in parts), (total, -1)]:
            if cell in place:
                row[place[cell]] += sign
    free = np.linalg.svd(system)[2][np.linalg.matrix_rank(system) :]
    can_move = np.abs(free).max(axis=0, initial=0) > 1e-9
    return {cell for cell, moves in zip(unknown, can_move, strict=True) if not moves}


def sums_left(counts, hidden):
    """Of each attribute, row and column: what its shown cells leave of the total."""
    lines = {}
    for cell, count in counts.items():
        above = margins_of(cell) if " x " in cell[0] else [(cell[0], "")]
        for margin in above if cell[0] != "overall" else ():
            lines.setdefault((cell[0], margin), []).append(count if cell in hidden else 0)
    return [sum(line) for (_, margin), line in lines.items() if margin not in hidden]


def draw_table(rng, rows, columns):
    return rng.poisson(rng.choice([4, 12, 40], (rows, columns)))


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(server.suppression).failed == 0


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (3, 2), (4, 3)])
def test_no_withheld_cell_of_any_table_can_be_worked_out(rows, columns):
    rng, seen = np.random.default_rng(1), 0
    for _ in range(60):
        table = draw_table(rng, rows, columns)
        counts = crossed(("age_band", BANDS[:rows]), ("sex", SEXES[:columns]), table)
        hidden = hide_cells(counts, min_cell=MIN_CELL)
        assert {cell for cell, count in counts.items() if count < MIN_CELL} <= hidden
        if counts["overall", "all"] >= MIN_CELL:
            assert worked_out(counts, hidden) == set()
            assert all(left == 0 or left >= MIN_CELL for left in sums_left(counts, hidden))
            seen += bool(hidden)
    assert seen > 20


def test_no_withheld_cell_of_tables_that_share_margins_can_be_worked_out():
    rng = np.random.default_rng(2)
    for _ in range(20):
        people = draw_table(rng, 5, 8).reshape(5, 4, 2)
        counts = (
            crossed(("site", SITES), ("age_band", BANDS), people.sum(axis=2))
            | crossed(("site", SITES), ("sex", SEXES[:2]), people.sum(axis=1))
            | crossed(("age_band", BANDS), ("sex", SEXES[:2]), people.sum(axis=0))
        )
        assert worked_out(counts, hide_cells(counts, min_cell=MIN_CELL)) == set()


def test_a_bridge_between_two_safe_blocks_is_no_secret():
    # Every line that has a hidden cell has two or more; the one in the middle follows all the same.
    table = np.full((5, 5), 40)
    for i, j in [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 2), (2, 3), (3, 2), (3, 3)]:
        table[i, j] = 6
    table[1, 2] = 7
    counts = crossed(("site", SITES), ("place", tuple("vwxyz")), table)
    small = {cell for cell, count in counts.items() if count < MIN_CELL}
    assert worked_out(counts, small) == {("site x place", "b x")}
    hidden = hide_cells(counts, min_cell=MIN_CELL)
    assert small < hidden
    assert worked_out(counts, hidden) == set()


def test_each_attribute_on_its_own_would_give_an_intersection_away():
    # The broken variant: complementary suppression within each table, blind to the margins.
    counts = crossed(("age_band", BANDS[:2]), ("sex", SEXES[:2]), np.array([[4, 40], [50, 60]]))
    blind = {("age_band x sex", "18-39 female"), ("age_band x sex", "18-39 male")}
    assert worked_out(counts, blind) == blind
    hidden = hide_cells(counts, min_cell=MIN_CELL)
    assert {cell for cell in hidden if " x " in cell[0]} == {
        ("age_band x sex", f"{band} {sex}") for band in BANDS[:2] for sex in SEXES[:2]
    }


def test_cells_of_a_withheld_margin_do_not_add_up_to_it():
    table = np.array([[3, 3], [40, 30], [60, 70]])
    counts = crossed(("age_band", BANDS[:3]), ("sex", SEXES[:2]), table)
    hidden = hide_cells(counts, min_cell=MIN_CELL)
    assert {("age_band", "18-39"), ("age_band", "40-59")} <= hidden
    assert ("age_band x sex", "40-59 male") in hidden
    assert worked_out(counts, hidden) == set()


def test_a_withheld_margin_takes_its_cells_along_where_noise_makes_the_tables_disagree():
    table = np.array([[3, 3], [30, 30], [25, 25]])
    counts = crossed(("age_band", BANDS[:3]), ("sex", SEXES[:2]), table)
    # Cells say that the second band is larger than the third, the noised margins the opposite.
    counts |= {("age_band", "40-59"): 50.0, ("age_band", "60+"): 55.0}
    hidden = hide_cells(counts, min_cell=MIN_CELL)
    assert ("age_band", "40-59") in hidden
    assert worked_out(counts, hidden) == set()


def test_the_same_cells_go_whatever_the_order_and_whoever_ties():
    table = np.array([[4, 20, 20], [20, 20, 20], [30, 20, 20], [20, 50, 20]])
    counts = crossed(("age_band", BANDS), ("sex", SEXES), table)
    first = hide_cells(counts, min_cell=MIN_CELL)
    for seed in range(5):
        mixed = np.random.default_rng(seed).permutation(len(counts))
        items = list(counts.items())
        assert hide_cells(dict(items[i] for i in mixed), min_cell=MIN_CELL) == first


def test_large_cells_are_all_shown():
    counts = crossed(("age_band", BANDS), ("sex", SEXES), np.full((4, 3), 25))
    assert hide_cells(counts, min_cell=MIN_CELL) == frozenset()
