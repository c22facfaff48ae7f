# SPDX-License-Identifier: Apache-2.0
"""Limits as they are written: shares, amounts with units, and what is said of others."""

import pytest
import yaml

from raycomp.config import SweepConfig, load
from raycomp.errors import UserError
from raycomp.settings.amounts import Amount, allowance, in_words, parsed_limit, stored
from raycomp.settings.space_and_search import SearchConfig
from tests.helpers.trials import CONFIG

READ = [
    ("40%", "gflops", 0.4),
    (0.4, "ms", 0.4),
    ("100%", "memory", 1.0),
    ("0.2 GFLOPs", "gflops", Amount(0.2, "gflops")),
    ("200 mflops", "gflops", Amount(0.2, "gflops")),
    ("1M", "params", Amount(1e6, "params")),
    (1_500_000, "params", Amount(1.5e6, "params")),
    ("750 k", "params", Amount(750e3, "params")),
    ("8ms", "ms", Amount(8, "ms")),
    ("0.5 s", "ms", Amount(500, "ms")),
    ("2 MB", "memory", Amount(2e6, "memory")),
    ("2 MB", "file", Amount(2e6, "file")),
    ("1.5MiB", "memory", Amount(1.5 * 2**20, "memory")),
    (".5 GB", "memory", Amount(5e8, "memory")),
]
REFUSED = [
    ("140%", "gflops", "such as 40%, or 140 GFLOPs"),
    ("8", "ms", "such as 8%, or 8 ms"),
    (40, "memory", "such as 40%, or 40 MB"),
    ("5 MB", "ms", "such as 5%, or 5 ms"),
    ("8 milliseconds", "ms", "such as 8%, or 8 ms"),
    ("0", "gflops", "such as 40%, or 0.2 GFLOPs"),
    ("-1 ms", "ms", "such as 40%, or 8 ms"),
    ("1.2.3 ms", "ms", "such as 40%, or 8 ms"),
    (True, "params", "such as 40%, or 1 M"),
    ([1], "params", "such as 40%, or 1 M"),
    ("", "memory", "such as 40%, or 2 MB"),
]


@pytest.mark.parametrize(("value", "cost", "expected"), READ)
def test_what_is_read(value, cost, expected):
    assert parsed_limit(value, (cost,)) == expected
    assert parsed_limit(stored(expected), (cost,)) == expected


@pytest.mark.parametrize(("value", "cost", "hint"), REFUSED)
def test_what_is_refused_names_the_nearest_right_form(value, cost, hint):
    with pytest.raises(ValueError, match="expected a share of dense") as error:
        parsed_limit(value, (cost,))
    assert str(error.value).endswith(hint)


@pytest.mark.parametrize(
    ("limit", "dense", "words", "expected"),
    [
        (0.4, 0.5, "40%", 0.2),
        (Amount(0.2, "gflops"), 0.5, "0.2 GFLOPs", 0.2),
        (Amount(1.25e6, "params"), 2e6, "1.25 M parameters", 1.25e6),
        (Amount(2.5e6, "memory"), 1e6, "2.5 MB", 2.5e6),
    ],
)
def test_what_a_limit_allows_and_how_it_reads(limit, dense, words, expected):
    assert allowance(limit, dense) == pytest.approx(expected)
    assert in_words(limit) == words


def test_the_unit_of_a_budget_sets_the_cost_metric():
    assert SearchConfig.model_validate({"budget": "8 ms"}).cost_metric == "latency"
    assert SearchConfig.model_validate({"budget": "0.2 GFLOPs"}).cost_metric == "gflops"
    with pytest.raises(ValueError, match=r"budget 8 ms needs cost_metric latency, not gflops; or give .* such as 60%"):
        SearchConfig.model_validate({"budget": "8 ms", "cost_metric": "gflops"})


def space_file(folder, **search):
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(CONFIG.model_dump(mode="json", exclude={"search"}) | {"search": search}))
    return path


def test_files_and_options_are_read_alike(tmp_path):
    limits = {"gflops": "40%", "params": "1M", "ms": "60%", "memory": "2 MB", "file": "50%"}
    config = load(space_file(tmp_path, limits=limits), budget="8ms")
    assert (config.search.cost_metric, config.search.budget) == ("latency", Amount(8, "ms"))
    assert config.search.limits.params == Amount(1e6, "params")
    assert SweepConfig.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config
    assert config.changed("search", trials=3).search.limits == config.search.limits


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"limits": {"ms": "8"}}, "'search.limits.ms': expected a share of dense such as 8%, or 8 ms, not '8'"),
        ({"limits": {"latency": "8 ms"}}, "unknown field 'search.limits.latency'"),
        ({"limits": {"param": "1M"}}, "did you mean 'params'?"),
        ({"budget": "60"}, "'search.budget': expected a share of dense such as 60%, or 60 GFLOPs or 60 ms, not '60'"),
    ],
)
def test_errors_of_a_file_are_one_line(tmp_path, search, message):
    with pytest.raises(UserError) as error:
        load(space_file(tmp_path, **search))
    assert message in str(error.value)
