# SPDX-License-Identifier: Apache-2.0
"""Tables and figures of the comparison from rows made up by hand."""

import numpy as np

from raycomp.benchmark.conditions import Condition
from raycomp.benchmark.pictures import Pictures, Scene
from raycomp.benchmark.timing import Timing
from raycomp.report.benchmark_plots import merged, plot_accuracy, plot_rank, plot_scenes
from raycomp.report.benchmark_tables import corruption_table, failures, page, results, table_1, table_2
from raycomp.results.row import Row
from tests.helpers import rows
from tests.helpers.figures import series


def row(method: str, label: str, seed: int, clean: float, gflops: float = 1.0, status: str = "complete") -> Row:
    return rows.row(
        stage="benchmark", origin=method, label=label, seed=seed, status=status,
        error="" if status == "complete" else "cannot reach 0.1 GFLOPs",
        operating_point="s", gflops=gflops, clean_miou=clean, corrupted_miou=clean - 0.1,
        effective_rank=0.5, effective_rank_std=0.1, tokens=[20, 10],
        corrupted_by_variant=[0.1 * seed] * 80,
    )  # fmt: skip


ROWS = [
    row("dense", "dense", 0, 0.70, 2.0),
    row("tome", "ToMe 2.5x", 0, 0.50),
    row("tome", "ToMe 2.5x", 1, 0.54),
    row("tome", "ToMe 2.5x", 2, 0.52),
    row("nvit", "NViT 2.5x", 0, 0.60),
    row("cts", "CTS 3.7x", 0, 0.0, status="failed"),
]
TIMINGS = [Timing("dense", 1.0, 1.0, 100.0, "cpu, batch 32"), Timing("ToMe 2.5x", 2.5, 2.0, 200.0, "cpu, batch 32")]


def test_table_1_has_the_paper_s_rows_and_the_best_in_bold():
    lines = table_1(results(ROWS)).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["dense", "ToMe", "NViT"]
    assert lines[2].startswith("| dense | dense")
    assert lines[3].startswith("| 2.5x | ToMe | s | 1 | 52.00 ± 4.97 |")
    assert "**60.00**" in lines[4]
    assert failures(ROWS) == ["CTS 3.7x: cannot reach 0.1 GFLOPs"]


def test_table_2_gives_the_share_of_saved_flops_that_becomes_speed():
    assert "| ToMe 2.5x | 2.50x | 2.00x | 0.80 | 200.0 | 52.00 | 42.00 |" in table_2(results(ROWS), TIMINGS)


def test_every_corruption_has_a_column():
    lines = corruption_table(results(ROWS)).splitlines()
    assert lines[0].count("|") == 20
    assert lines[2].endswith("| 1.00 | 1.00 |")
    assert lines[3].startswith("| ToMe 2.5x | 10.0 |")
    assert lines[3].endswith("| 0.90 | 0.60 |")  # (1 - 0.1) / (1 - 0), (0.52 - 0.1) / (0.70 - 0)


def test_the_page_has_tables_figures_and_what_is_missing():
    text = page("title", ["fact"], ROWS, TIMINGS)
    assert "- CTS 3.7x: cannot reach 0.1 GFLOPs" in text
    assert all(f"(fig{n}.png)" in text for n in (2, 3, 4))


def test_merged_tokens_are_painted_in_their_mean_colour():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2, :2] = 100
    image[:2, 2:] = 200
    shown = merged(image, np.array([[0, 0], [1, 2]]))
    assert shown[0, 0].tolist() == [150, 150, 150]
    assert shown[0, 3].tolist() == [150, 150, 150]
    assert shown[3, 1].tolist() == [0, 0, 0]


def test_figures_have_a_curve_per_method_that_ends_in_the_dense_model(figures, tmp_path):
    plot_accuracy(results(ROWS), "t", tmp_path / "fig2.png")
    plot_rank(results(ROWS), 32, "t", tmp_path / "fig4.png")
    (clean, noise), (rank, tokens) = (figure.axes for figure in figures)
    assert series(clean) == {"ToMe": [(1, 52), (2, 70)], "NViT": [(1, 60), (2, 70)], "dense": [(2, 70)]}
    assert series(noise) == {"ToMe": [(1, 42), (2, 60)], "NViT": [(1, 50), (2, 60)], "dense": [(2, 60)]}
    assert series(rank)["ToMe"] == [(1, 0.5), (2, 0.5)]
    assert series(tokens)["ToMe"] == [(1, 10), (2, 10)]


def test_scenes_are_drawn_beside_their_truth_and_what_each_method_says(figures, tmp_path, rng):
    scene = Scene("clean", rng.integers(0, 255, (32, 48, 3), dtype=np.uint8), np.zeros((32, 48), np.uint8))
    kept = [
        (condition, Pictures(np.zeros((1, 32, 48), np.uint8), np.arange(24).reshape(1, 4, 6)))
        for condition in (Condition(1.0, "dense"), Condition(2.5, "tome"))
    ]
    plot_scenes([scene], kept, ("road",), "t", tmp_path / "fig3.png")
    images = [axes.images[0].get_array() for axes in figures[0].axes if axes.images]
    assert len(images) == 8  # image and truth; prediction, tokens and errors of two methods
    assert np.array_equal(images[0], scene.image)
    assert [axes.get_title() for axes in figures[0].axes[:3]] == ["image", "dense", "ToMe 2.5x"]
