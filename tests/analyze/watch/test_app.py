"""The page of `tracer watch` as a server: what it answers, and what it does not."""

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from analyze.watch.survey import Survey
from tests.synthetic import write_archive
from tracer.share.attributes import set_attributes

pytest.importorskip("starlette", reason="the extra `watch` brings starlette")

from analyze.watch.app import make_app


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_archive(folder / "a.zarr", steps=(0, 2, 4))
    (folder / "secret.txt").write_text("secret")
    made = Survey(str(folder))
    made.look()
    yield made
    made.close()


@pytest.fixture(scope="module")
def get(survey):
    return asker(make_app(survey))


def asker(app):
    """Asks the application as a server would: status, headers, body."""

    async def ask(path, method, headers):
        sent = []
        place, _, query = path.partition("?")
        scope = {"type": "http", "http_version": "1.1", "method": method, "path": place, "root_path": ""}
        scope |= {"raw_path": place.encode(), "query_string": query.encode(), "scheme": "http"}
        scope |= {"headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()]}

        async def receive():
            return {"type": "http.request", "body": b""}

        async def send(message):
            sent.append(message)

        await app(scope, receive, send)
        answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], answered, b"".join(part.get("body", b"") for part in sent[1:])

    def get(path, method="GET", host="127.0.0.1:8600", **headers):
        return asyncio.run(ask(path, method, {"host": host, **headers}))

    return get


def test_what_is_polled_is_sent_again_only_when_it_has_changed(get, survey):
    for path in ("/state.json", "/curves.json?by=optimizer&x=epoch"):
        status, headers, body = get(path)
        assert status == 200 and json.loads(body)
        assert get(path, **{"if-none-match": headers["etag"]})[::2] == (304, b"")
    assert json.loads(get("/state.json")[2])["runs"][0]["name"] == "a"
    tag = get("/state.json")[1]["etag"]
    survey.version += 1
    assert get("/state.json", **{"if-none-match": tag})[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8600", "127.0.0.1.evil.example", "", "[::1]:8600"]
)
@pytest.mark.parametrize("path", ["/", "/state.json", "/page/watch.js"])
def test_a_page_elsewhere_cannot_ask_in_its_own_name(get, host, path):
    status, _, body = get(path, host=host)
    assert status == 400 and b"{" not in body


@pytest.mark.parametrize("host", ["127.0.0.1:9000", "localhost:8600", "localhost"])
def test_this_machine_and_the_end_of_a_tunnel_are_answered(get, host):
    assert get("/", host=host)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/secret.txt",
        "/page/../secret.txt",
        "/page/../../../../../etc/passwd",
        "/page//etc/passwd",
        "/page/survey.py",
        "/page/..\\app.py",
        "/runs/../secret.txt/report.html",
        "/runs/..%2f..%2fetc/report.html",
        "/runs//etc/passwd/report.html",
        "/runs/a.zarr/report.html",
        "/a.zarr/zarr.json",
        "/page/",
        "//etc/passwd",
    ],
)
def test_nothing_else_is_served(get, path):
    status, _, body = get(path)
    assert status == 404 and b"secret" not in body and b"root:" not in body and b"import" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(get, method, survey):
    key = next(iter(survey.runs))
    for path in ("/", "/state.json", f"/runs/{key}", f"/runs/{key}/report.html"):
        assert get(path, method)[0] == 405


def test_every_answer_keeps_others_out(get, survey):
    key = next(iter(survey.runs))
    for path in ("/", f"/runs/{key}", "/state.json", "/page/watch.js", "/none-such-page/x"):
        headers = get(path)[1]
        assert headers.get("x-content-type-options") == "nosniff" or path.startswith("/none")
        assert "access-control-allow-origin" not in headers
    policy = get("/")[1]["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


@pytest.mark.usefixtures("undrawn")
def test_a_run_s_report_is_that_of_its_analysis_or_made_of_what_is_computed(get, survey):
    key = next(iter(survey.runs))
    status, headers, body = get(f"/runs/{key}/report.html")
    assert status == 200 and b"Stiffness" in body and b"<svg" in body
    assert (
        headers["content-security-policy"].startswith("sandbox")
        and "same-origin" not in headers["content-security-policy"]
    )
    analysis = survey.runs[key].path.replace(".zarr", ".analysis")
    write_report(analysis, "saved")
    assert get(f"/runs/{key}/report.html")[2] == b"saved"
    assert get("/runs/gone/report.html")[0] == 404


def write_report(folder, text):
    Path(folder).mkdir()
    (Path(folder) / "report.html").write_text(text)


def test_without_its_packages_it_is_one_sentence(monkeypatch, tmp_path):
    import sys

    for missing in ("starlette", "uvicorn"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            result = CliRunner().invoke(cli.main, ["watch", str(tmp_path)])
        assert result.exit_code == 1
        assert (
            result.stderr
            == f"Error: tracer watch needs the package {missing}: pip install 'tracer-nn[watch]'\n"
        )


def test_a_port_that_is_taken_is_one_sentence(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = CliRunner().invoke(cli.main, ["watch", str(tmp_path), "--port", str(port)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: port {port} is taken; give another with --port, or 0 for any\n"


def test_the_report_of_a_run_that_is_gone_or_damaged_is_missing(tmp_path):
    write_archive(tmp_path / "a.zarr", steps=(0, 2))
    survey = Survey(str(tmp_path))
    survey.look()
    (key,) = survey.runs
    root = tmp_path / "a.zarr" / "zarr.json"
    for change in (lambda: root.write_text("{"), lambda: shutil.rmtree(tmp_path / "a.zarr")):
        change()
        status, _, body = asker(make_app(survey))(f"/runs/{key}/report.html")
        assert status == 404 and b"there is no report of this run: " in body and b"a.zarr" in body
    survey.close()


@pytest.mark.usefixtures("undrawn")
def test_a_name_that_is_no_utf_8_is_on_the_page_and_has_a_report(tmp_path):
    write_archive(tmp_path / "a.zarr", steps=(0, 2))
    set_attributes(tmp_path / "a.zarr", {"title": ""})
    (tmp_path / "a.zarr").rename(Path(os.fsdecode(bytes(tmp_path) + b"/\xff.zarr")))
    survey = Survey(str(tmp_path))
    survey.look()
    get = asker(make_app(survey))
    status, _, body = get("/state.json")
    assert status == 200 and json.loads(body)["runs"][0]["name"] == r"\udcff"
    status, _, body = get(f"/runs/{next(iter(survey.runs))}/report.html")
    assert status == 200 and b"\\udcff" in body
    survey.close()


@pytest.mark.parametrize("every", ["inf", "nan", "1e12", "0", "much"])
def test_how_often_to_look_is_within_a_day(every, tmp_path, monkeypatch):
    monkeypatch.setattr("analyze.watch.app.serve", lambda *given: None)
    result = CliRunner().invoke(cli.main, ["watch", str(tmp_path), "--every", every])
    assert result.exit_code == 2 and "Invalid value for '--every'" in result.stderr
