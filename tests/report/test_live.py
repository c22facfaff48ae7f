# SPDX-License-Identifier: Apache-2.0
"""The page that `raycomp watch` serves follows the rows, and answers this machine's browser alone."""

import json
from contextlib import contextmanager
from http.client import HTTPConnection
from threading import Thread

import pytest

from raycomp.errors import UserError
from raycomp.report.page.live import LiveSweep, server
from raycomp.report.page.sweep_page import sweep_page
from raycomp.report.sweep_view import SweepView
from raycomp.results.store import Store
from tests.helpers.sweep_views import sweep_view


@pytest.fixture
def store(tmp_path):
    """A sweep that runs, with half of its rows."""
    store, sweep = Store(tmp_path / "tiny"), sweep_view()
    store.open(sweep.config)
    store.ask("")
    for row in sweep.rows[:15]:
        store.write(row)
    yield store
    store.lock.drop()


@contextmanager
def serving(sweep):
    with server(sweep, 0) as made:
        thread = Thread(target=made.serve_forever)
        thread.start()
        yield made.server_address[1]
        made.shutdown()
        thread.join()


def asked(port, path, host=None):
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_it_follows_a_sweep_to_its_end(store):
    with serving(LiveSweep(store)) as port:
        first = json.loads(asked(port, "/progress.json")[1])
        assert first["line"].startswith("running: trial 14/30 | ")
        assert (first["done"], first["ended"]) == (pytest.approx(14 / 30), False)
        code, page = asked(port, "/")
        assert code == 200
        assert f'data-version="{first["version"]}"' in page
        for row in sweep_view().rows[15:]:
            store.write(row)
        store.finish()
        store.lock.drop()
        last = json.loads(asked(port, "/progress.json")[1])
        assert last["version"] != first["version"]
        assert last["line"].startswith("finished: trial 30/30 | ")
        assert (last["done"], last["ended"]) == (1.0, True)
        page = asked(port, "/")[1]
        assert all(row.recipe_id in page for row in sweep_view().front)


def shown(page, start):
    """Wait until the line of the page starts so."""
    page.wait_for_function(f"document.querySelector('#live span').textContent.startsWith('{start}')", timeout=60_000)


@pytest.mark.slow
def test_a_browser_shows_new_rows_and_keeps_the_recipe(browser, store):
    page, problems = browser.new_page(), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    with serving(LiveSweep(store)) as port:
        page.goto(f"http://localhost:{port}/")
        before = page.locator("#live").get_attribute("data-version")
        assert page.locator("[data-figure=front] .main-svg").count() > 0
        shown(page, "running: trial 14/30")
        chosen = page.locator("#front-table tbody tr").last.get_attribute("data-recipe")
        page.locator("#recipe select").select_option(chosen)
        store.write(sweep_view().rows[15])
        page.wait_for_function(f"document.querySelector('#live').dataset.version !== '{before}'", timeout=60_000)
        shown(page, "running: trial 15/30")
        assert page.locator("#recipe select").input_value() == chosen
    shown(page, "no answer from raycomp watch")
    assert problems == []
    page.close()


def test_only_this_machine_and_only_the_page_is_answered(store):
    with serving(LiveSweep(store)) as port:
        assert asked(port, "/", f"localhost:{port}")[0] == 200
        assert asked(port, "/", "elsewhere.example")[0] == 403
        assert asked(port, "/sweep.yaml")[0] == 404
        assert asked(port, "/../sweep.yaml")[0] == 404
        assert "plotly.js" in asked(port, "/plotly.js")[1][:200]
        with pytest.raises(UserError, match=f"--port {port}: address already in use; 0 takes a free one"):
            server(LiveSweep(store), port)
        (store.folder / "sweep.yaml").unlink()
        store.write(sweep_view().rows[20])
        assert asked(port, "/")[0] == 500


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8])
def test_a_sweep_that_has_just_begun_has_a_page(count):
    whole = sweep_view()
    page = sweep_page([SweepView(whole.name, whole.config, whole.rows[:count])], live="1")
    assert 'src="plotly.js"' in page
    assert len(page) < 1e6, "plotly.js is not in a page that is drawn again and again"
