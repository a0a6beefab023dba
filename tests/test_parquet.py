"""A run as Parquet, read back by pyarrow; and what is said where it is not installed."""

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_agentperf import export
from pytest_agentperf.parquet import COLUMNS, load_pyarrow, write_tables
from pytest_agentperf.records import TokenCount, TurnRecord, Window
from pytest_agentperf.run_folder import RunFolder
from pytest_agentperf.stored import open_run
from pytest_agentperf.timeline import Timeline
from pytest_agentperf.token_check import Ratios, TokenCheck
from tests.bundles import example_bundle
from tests.phases import WINDOW, ns, request

ROWS = [
    request(100.0, ttft_s=0.5, decode_s=2.0, osl_tokens=41, agent=0),
    request(150.0, error="timeout after 300 s", first_token_ns=None, last_token_ns=None,
            osl_tokens=None, isl_tokens=None, token_offsets_us=b"", agent=1),
    request(199.5, ttft_s=1.0, decode_s=4.0, osl_tokens=21, agent=0, turn=2),
    request(200.0, agent=1, osl_tokens=1),
]  # fmt: skip
BEGAN_NS = ns(40)
_, pq = load_pyarrow()


def _seconds(window: Window) -> Timeline:
    return Timeline(
        window_s=tuple((at - BEGAN_NS) / 1e9 for at in (window.start_ns, window.end_ns)),  # pyright: ignore[reportArgumentType] two
        started=(1, 2),
        in_flight=(0.5, 2.0),
        waiting=(0.25, 0.0),
        output_tokens=(0.0, 12.0),
        server={"running": (None, 1.5)},
        began_ns=BEGAN_NS,
    )


def _count(agent: int, osl_tokens: int, *, turn: int = 1, isl_tokens: int | None = None):
    return TokenCount(
        agent=agent,
        ordinal=0,
        turn=turn,
        osl_tokens=osl_tokens,
        is_whole=turn == 1,
        first_chunk_tokens=3,
        isl_tokens=isl_tokens,
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two phases of four requests each; the first was counted by a local tokenizer."""
    bundle = example_bundle()
    phases = tuple(replace(p, metrics=replace(p.metrics, requests=3)) for p in bundle.phases[:2])
    folder = RunFolder(tmp_path / "results", replace(bundle, phases=phases))
    for number in (1, 2):
        folder.turns(number, ROWS)
        folder.timeline(number, _seconds(WINDOW))
    folder.token_counts(1, [_count(0, 40, isl_tokens=99), _count(1, 7), _count(0, 9, turn=2)])
    folder.close()
    return folder.path


def table(out: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(out / f"{name}.parquet").to_pylist()


def test_requests_come_back_with_types_units_and_what_is_made_of_them(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([str(run), "--out", str(tmp_path / "tables")]) == 0
    assert f"{tmp_path / 'tables' / 'requests'}.parquet: 8 rows\n" in capsys.readouterr().out
    rows = table(tmp_path / "tables", "requests")
    assert [r["phase"] for r in rows] == [1] * 4 + [2] * 4
    assert {(r["phase"], r["agents"]) for r in rows} == {(1, 8), (2, 16)}
    first, failed, last, beyond = rows[4:]
    assert [r["in_window"] for r in rows[4:]] == [True, True, True, False]
    # 40 tokens in the 2 s after the first, 20 in 4.
    assert (first["ttft_s"], first["output_speed_tok_per_s"]) == (0.5, 20.0)
    assert (last["output_speed_tok_per_s"], last["e2e_s"]) == (5.0, 5.0)
    assert (failed["ttft_s"], failed["output_speed_tok_per_s"]) == (float("inf"), 0.0)
    assert (failed["error"], failed["osl_tokens"], failed["first_token_ns"]) == (
        "timeout after 300 s", None, None
    )  # fmt: skip
    assert beyond["output_speed_tok_per_s"] is None
    assert first["sent_ns"] == ns(100)
    assert first["token_offsets_us"] == [500_000, 2_500_000]


def test_what_a_tokenizer_counted_stands_with_its_requests(run: Path, tmp_path: Path) -> None:
    export.main([str(run), "--out", str(tmp_path / "tables")])
    rows = table(tmp_path / "tables", "requests")
    names = ("osl_tokens", "local_osl_tokens", "local_isl_tokens", "first_chunk_tokens")
    # The server's own count stands where there is one, and one of another thing is not beside it.
    assert [tuple(r[name] for name in names) for r in rows[:4]] == [
        (41, 40, 99, 3), (7, None, None, 3), (21, None, None, 3), (1, 7, None, 3)
    ]  # fmt: skip
    assert {r["local_osl_tokens"] for r in rows[4:]} == {None}


@pytest.mark.parametrize(("speed", "judged"), [("usage", 20.0), ("first-chunk", 19.0)])
def test_output_speed_is_the_one_that_was_judged(
    run: Path, tmp_path: Path, speed: str, judged: float
) -> None:
    stored = open_run(run)
    settings = replace(stored.bundle.settings, speed=speed)
    write_tables(replace(stored, bundle=replace(stored.bundle, settings=settings)), tmp_path)
    first = table(tmp_path, "requests")[0]
    # In the 2 s after the first token: 40 of 41, and 38 where its chunk brought 3.
    assert first["usage_speed_tok_per_s"] == 20.0
    assert first["first_chunk_speed_tok_per_s"] == 19.0
    assert first["output_speed_tok_per_s"] == judged
    metadata = pq.read_schema(tmp_path / "requests.parquet").metadata
    assert metadata[b"agentperf_judged_speed"] == speed.encode()


def test_a_check_of_tokens_stands_in_columns_of_its_own(tmp_path: Path) -> None:
    bundle = example_bundle()
    ratios = Ratios(n=7, p05=0.9, p50=1.0, p95=1.25, pooled=1.125)
    check = TokenCheck(answers=8, verified=6, osl=ratios, isl=None)
    phases = tuple(
        replace(phase, metrics=replace(phase.metrics, tokens=tokens, requests=0))
        for phase, tokens in zip(bundle.phases, (check, None), strict=False)
    )
    folder = RunFolder(tmp_path / "results", replace(bundle, phases=phases))
    for number in (1, 2):
        folder.timeline(number, _seconds(WINDOW))
    folder.close()
    write_tables(open_run(folder.path), tmp_path)
    row, without = table(tmp_path, "phases")
    assert {name: row[name] for name in row if name.startswith("tokens_")} == {
        "tokens_answers": 8, "tokens_verified": 6, "tokens_osl_n": 7, "tokens_osl_p05": 0.9,
        "tokens_osl_p50": 1.0, "tokens_osl_p95": 1.25, "tokens_osl_pooled": 1.125,
        "tokens_isl_n": None, "tokens_isl_p05": None, "tokens_isl_p50": None,
        "tokens_isl_p95": None, "tokens_isl_pooled": None,
    }  # fmt: skip
    assert {without[name] for name in without if name.startswith("tokens_")} == {None}


def test_every_field_of_a_request_is_a_column() -> None:
    assert {f.name for f in fields(TurnRecord)} <= set(COLUMNS["requests"])


def test_phases_verdicts_and_seconds_come_back(run: Path, tmp_path: Path) -> None:
    export.main([str(run), "--out", str(tmp_path / "tables")])
    bundle = json.loads((run / "bundle.json").read_bytes())
    rows = table(tmp_path / "tables", "phases")
    for row, phase in zip(rows, bundle["phases"], strict=True):
        assert (row["phase"], row["agents"]) == (phase["number"], phase["agents"])
        assert row["ttft_s_p95"] == phase["metrics"]["ttft_s"]["p95"]
        assert row["output_speed_tok_per_s_n"] == phase["metrics"]["output_speed_tok_per_s"]["n"]
        assert row["throughput_tok_per_s"] == phase["metrics"]["throughput_tok_per_s"]
        assert row["power_mean_w"] == phase["power"]["mean_w"]
        assert (row["window_start_ns"], row["window_end_ns"]) == (ns(100), ns(200))
    findings = table(tmp_path / "tables", "verdicts")
    told = [
        (p["number"], v["tier"], v["outcome"], f["limit"], f["observed"], f["met"])
        for p in bundle["phases"] for v in p["verdicts"] for f in v["findings"]
    ]  # fmt: skip
    names = ("phase", "tier", "outcome", "limit", "observed", "met")
    assert [tuple(row[name] for name in names) for row in findings] == told
    seconds = table(tmp_path / "tables", "timeline")
    assert [(s["second"], s["started_agents"], s["output_tokens"]) for s in seconds[:2]] == [
        (0, 1, 0.0), (1, 2, 12.0)
    ]  # fmt: skip
    assert seconds[1]["start_ns"] == BEGAN_NS + 10**9
    assert not seconds[1]["in_window"]
    (said, _) = table(tmp_path / "tables", "server")
    assert (said["second"], said["series"], said["value"]) == (1, "running", 1.5)


def test_a_file_says_of_which_run_it_is_and_has_the_types_that_are_named(
    run: Path, tmp_path: Path
) -> None:
    write_tables(open_run(run), tmp_path)
    for name, columns in COLUMNS.items():
        schema: Any = pq.read_schema(tmp_path / f"{name}.parquet")
        assert schema.metadata[b"agentperf_run"] == run.name.encode()
        assert schema.metadata[b"agentperf_bundle_schema"] == b"agentperf-bundle/1"
        assert schema.names == list(columns)
    requests: Any = pq.read_schema(tmp_path / "requests.parquet")
    kinds = {n: str(requests.field(n).type) for n in ("phase", "sent_ns", "ttft_s", "in_window")}
    assert kinds == {"phase": "int32", "sent_ns": "int64", "ttft_s": "double", "in_window": "bool"}
    assert str(requests.field("token_offsets_us").type) == "list<element: uint32>"


def test_rows_are_written_in_groups(run: Path, tmp_path: Path) -> None:
    assert write_tables(open_run(run), tmp_path, group_rows=3)["requests"] == 8
    found: Any = pq.ParquetFile(tmp_path / "requests.parquet").metadata
    assert [found.row_group(i).num_rows for i in range(found.num_row_groups)] == [3, 3, 2]
    sent = [row["sent_ns"] for row in table(tmp_path, "requests")]
    assert sent == [turn.sent_ns for turn in ROWS] * 2
    assert np.all(np.diff(sent[:4]) > 0)


def test_nothing_is_left_of_an_export_that_fails(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (run / "requests.jsonl").open("ab") as log:
        log.write(b"{}\n")
    assert export.main([str(run), "--out", str(tmp_path / "tables")]) == 4
    assert "requests.jsonl, line 9 cannot be read: " in capsys.readouterr().err
    assert list((tmp_path / "tables").iterdir()) == []


def test_a_run_that_lost_requests_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (run / "requests.jsonl").read_bytes().splitlines(keepends=True)
    (run / "requests.jsonl").write_bytes(b"".join(lines[:5]))
    assert export.main([str(run), "--out", str(tmp_path / "tables")]) == 4
    assert "phase 2: 1 requests of its window are kept, and the run judged 3: " in (
        capsys.readouterr().err
    )
    assert list((tmp_path / "tables").iterdir()) == []


def test_no_table_has_its_name_before_all_are_whole(run: Path, tmp_path: Path) -> None:
    # Seconds started by more agents than 32 bits count: found when that table is closed.
    lines = [json.loads(line) for line in (run / "timeline.jsonl").read_bytes().splitlines()]
    lines[1]["started"][1] = 2**40
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "timeline.jsonl").write_text(text, "utf-8")
    folder = tmp_path / "tables"
    folder.mkdir()
    with pytest.raises(ValueError, match="too large"):
        write_tables(open_run(run), folder)
    assert list(folder.iterdir()) == []


def test_wrong_use_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([str(tmp_path / "none"), "--out", str(tmp_path / "tables")]) == 4
    assert not (tmp_path / "tables").exists()
    export.main([str(run), "--out", str(tmp_path / "tables")])
    before = (tmp_path / "tables" / "requests.parquet").read_bytes()
    capsys.readouterr()
    assert export.main([str(run), "--out", str(tmp_path / "tables")]) == 4
    assert "requests.parquet is there already; name another folder" in capsys.readouterr().err
    assert (tmp_path / "tables" / "requests.parquet").read_bytes() == before
    with pytest.raises(SystemExit) as ended:
        export.main([str(run)])
    assert ended.value.code == 4


def test_without_pyarrow_the_extra_is_named(run: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from pytest_agentperf.export import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(run), "--out", str(tmp_path / "tables")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert done.stderr == (
        "error: Parquet is written by pyarrow, which is not installed: "
        "pip install 'pytest-agentperf[parquet]'\n"
    )
    assert not (tmp_path / "tables").exists()
