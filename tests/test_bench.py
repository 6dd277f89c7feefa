"""The parts of the benchmark, for a moment each: that they do what they say. How fast, no test tells."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace

import pytest

from bench import measures
from bench.__main__ import arguments
from bench.cases import CASES, Case, Variant, asking, fetching, sending
from bench.contest import measured
from bench.job import Job
from bench.measures import Turn, cpu_per_operation, memory_per_connection, under_rotation
from bench.peers import SERVERS
from bench.plot import OURS, picture
from bench.processes import cpu_of
from bench.report import Line, Row, core, tables
from bench.results import BEGIN, END, keep
from bench.servers import KEY, MissingError, Rekeyd, Server
from bench.stage import Contender, Load, Stage, stage

BURN = "import time\nwhile time.process_time() < 0.2: pass"


def rekeyd() -> Contender:
    return Contender("rekeyd", Rekeyd, Rekeyd.find())


@pytest.fixture(autouse=True)
def _no_time_to_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.stage.SETTLES", 0.0)


@pytest.fixture(scope="module")
def on() -> Iterator[Stage]:
    with stage() as made:
        yield made


@pytest.fixture(scope="module")
def server(on: Stage) -> Iterator[Server]:
    with on.running([rekeyd()]) as servers:
        yield servers["rekeyd"]


def turn(on: Stage, server: Server, job: Job) -> Turn:
    return Turn(on, server, replace(job, seconds=0.05, warm=0.0))


@pytest.mark.parametrize(
    "job",
    [
        asking("requests"),
        asking("requests", key="wrong", status=401),
        asking("handshakes", connections=2),
        sending(100_000),
        fetching(100_000),
    ],
    ids=["requests", "denied", "handshakes", "sending", "fetching"],
)
def test_an_operation_costs_cpu(on: Stage, server: Server, job: Job) -> None:
    (cost,) = cpu_per_operation(turn(on, server, job))
    assert cost > 0


def test_a_call_of_grpc_costs_cpu(on: Stage) -> None:
    with on.running([rekeyd()], grpc=True) as servers:
        (cost,) = cpu_per_operation(turn(on, servers["rekeyd"], Job("calls", 0, "", KEY, connections=2)))
    assert cost > 0


def test_idle_connections_are_counted_while_they_are_open(on: Stage, server: Server) -> None:
    (size,) = memory_per_connection(turn(on, server, asking("idle", connections=200)))
    assert size > 0


def test_certificates_change_while_it_is_measured(
    on: Stage, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "EVERY", 0.2)
    monkeypatch.setattr(measures, "ROTATIONS", 2)
    before = (server.folder / "tls.crt").read_bytes()
    told = under_rotation(turn(on, server, asking("visits", connections=2, visits=10)))
    cpu, change, quiet, busy, unanswered, certificates = told
    assert min(cpu, change, quiet, busy) > 0
    assert unanswered == 0
    assert certificates >= 1
    assert (server.folder / "tls.crt").read_bytes() != before


def test_an_answer_that_was_not_asked_for_is_no_operation(on: Stage, server: Server) -> None:
    job = turn(on, server, asking("requests", key="wrong")).load()
    with pytest.raises(RuntimeError, match="the clients gave up"), Load.of(job) as load:
        load.run()


@pytest.mark.parametrize("kind", SERVERS.values(), ids=SERVERS)
def test_each_server_does_the_same(on: Stage, kind: type[Server]) -> None:
    try:
        contender = Contender("it", kind, kind.find())
    except MissingError as missing:
        pytest.skip(str(missing))
    with on.running([contender], log=True) as servers:
        it = servers["it"]
        for job in (asking("requests"), asking("requests", key="wrong", status=401)):
            with Load.of(turn(on, it, job).load()) as load:
                assert load.run().operations > 0
    log = it.folder / "access.log"
    lines = (log if log.exists() else it.folder / "out").read_text().splitlines()
    logged = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    assert any("/collections/books" in json.dumps(line) for line in logged)


def test_settings_that_a_rekeyd_does_not_take_are_left_out(on: Stage) -> None:
    strange = Variant("with wings", lambda _: {"service": {"wings": 2}})
    case = Case("h", CASES[0].lines, asking("requests"), variants=(strange,))
    rows = measured(case, [rekeyd()], on, rounds=1, seconds=0.05)
    cells = [cell.strip() for cell in tables(rows, ["rekeyd"]).splitlines()[-1].split("|")]
    assert cells == ["", "(h) with wings", "µs", "not in this version", "", ""]


def test_what_children_spent_is_counted_when_they_have_ended() -> None:
    script = f"{sys.executable} -c '{BURN}'; echo; read end"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert cpu_of(process.pid) >= 0.19  # in ticks
        process.communicate()


ROWS = [
    Row("a", Line("Request", core=True), values={"rekeyd": [3e-5, 5e-5, 4e-5], "other": [2e-5, 2e-5, 4e-5]}),
    Row("f", Line("Unanswered", "", compared=False), values={"rekeyd": [0, 0, 0]}),
    Row("f", Line("more than without", "%", compared=False, drawn=False), values={"rekeyd": [-0.1]}),
    Row("i", Line("Request"), alone=True, values={"1 key": [1e-5], "2 keys": [2e-5]}),
]


def test_a_table_tells_median_spread_and_what_rekeyd_spends_beside_it() -> None:
    assert tables(ROWS, ["rekeyd", "other"]).splitlines() == [
        "|                       | unit |  rekeyd |           other |",
        "| --------------------- | ---: | ------: | --------------: |",
        "| (a) Request           |   µs | 40 ± 10 | 20 ± 10 (1.50×) |",  # noqa: RUF001 - it is told so
        "| (f) Unanswered        |      |   0 ± 0 |    not measured |",
        "| (f) more than without |    % | -10 ± 0 |    not measured |",
        "",
        "| rekeyd alone | unit |        | of the first |",
        "| ------------ | ---: | -----: | -----------: |",
        "| (i) 1 key    |   µs | 10 ± 0 |        1.00× |",  # noqa: RUF001
        "| (i) 2 keys   |   µs | 20 ± 0 |        2.00× |",  # noqa: RUF001
    ]


def test_the_readme_gets_medians_of_what_says_most() -> None:
    made = core(ROWS, ["rekeyd", "other"])
    kept = keep(f"before\n{BEGIN}old\n{END}after\n", made)
    assert kept.splitlines() == [
        "before",
        BEGIN.strip(),
        "|             | rekeyd | other |",
        "| ----------- | -----: | ----: |",
        "| Request, µs |     40 |    20 |",
        END.strip(),
        "after",
    ]
    assert keep("without marks", made) == "without marks"


def test_a_picture_has_a_bar_for_each_value() -> None:
    drawn = ET.fromstring(picture(ROWS, ["rekeyd", "other"], "x < y"))  # noqa: S314 - it is our own
    bars = [each for each in drawn if each.tag.endswith("rect") and each.get("fill") != "#ffffff"]
    widths = [float(each.get("width", 0)) for each in bars]
    assert [each.get("fill") == OURS for each in bars] == [True, False, True]
    assert widths[1] * 2 == pytest.approx(widths[0], abs=0.1)
    assert widths[2] == 0


def test_what_is_asked_for_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments([]).whole
    assert arguments(["--quick"]).peers == ["nginx", "haproxy"]
    assert not arguments(["--only", "a,e"]).whole
    with pytest.raises(SystemExit):
        arguments(["--peers", "nginx,apache"])
    assert "'apache' is none of" in capsys.readouterr().err
