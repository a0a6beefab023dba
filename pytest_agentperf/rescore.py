"""``python -m pytest_agentperf.rescore RUN``: judge a run's stored requests again, without load.

    rescore RUN --tier mlperf:output_speed_tok_per_s.p10>=20,ttft_s.p90<=10
    rescore RUN --tiers FILE.yaml
    rescore RUN --speed first-chunk
    rescore RUN --window-s 120:

A new folder gets ``bundle.json`` and ``report.html``; RUN is never touched (``docs/results.md``).
Where the run's own judgement comes out again, nothing is written without ``--out``.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_agentperf.bundle import Bundle, encode_bundle
from pytest_agentperf.command import WRONG_USE, Parser
from pytest_agentperf.errors import AgentPerfError, ConfigError
from pytest_agentperf.rejudged import Part
from pytest_agentperf.report import render_page
from pytest_agentperf.rescoring import Asked, answer_said, rescore
from pytest_agentperf.shipped import published
from pytest_agentperf.slo import SLOTier
from pytest_agentperf.stored import StoredRun, open_run
from pytest_agentperf.tierfile import choose_models, parse_tiers

__all__ = ["main"]

_PROGRAM = "python -m pytest_agentperf.rescore"
_COMPARISON = "comparison.json"
_FLOORS = ("min_steady_s", "min_trajectories", "min_trajectories_per_agent")
_KNOBS = ("speed", *_FLOORS)


def main(given: Sequence[str] | None = None) -> int:
    """Judge again and write; return the exit code: 0, or 4 where something is wrong."""
    asked = _parser().parse_args(given)
    try:
        run, judged = _judged(asked)
        folder = _folder(asked, judged)
        if folder is not None:
            _write(folder, run, judged)
    except (AgentPerfError, OSError) as wrong:
        sys.stderr.write(f"error: {wrong}\n")
        return WRONG_USE
    sys.stdout.writelines(f"{line}\n" for line in _said(run.bundle, judged))
    if folder is None:
        sys.stdout.write("nothing is written: --out names a folder for a copy\n")
    else:
        sys.stdout.write(f"bundle: {folder / 'bundle.json'}\n")
    return 0


def _parser() -> ArgumentParser:
    parser = Parser(prog=_PROGRAM, description="Judge a run's stored requests again.")
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--out", type=Path, help="new folder; default: beside RUN")
    parser.add_argument("--tiers", type=Path, help="tier file that replaces the run's tiers")
    parser.add_argument(
        "--tier",
        action="append",
        default=[],
        help="only this tier by name, or limits: NAME:speed>=50,ttft_s.p90<=3; several times",
    )
    parser.add_argument("--speed", choices=("usage", "first-chunk"), help="judged output speed")
    parser.add_argument(
        "--window-s",
        help="seconds of every steady window: 300 (the first ones), 120: (all later), 120:420",
    )
    parser.add_argument("--min-steady-s", type=float, help="floor of a window's, or part's, length")
    parser.add_argument("--min-trajectories", type=int, help="floor, of the phase or of the part")
    parser.add_argument("--min-trajectories-per-agent", type=int, help="floor, the same")
    return parser


def _judged(asked: Namespace) -> tuple[StoredRun, Bundle]:
    run = open_run(asked.run)
    if asked.out is not None and asked.run.resolve() in asked.out.resolve().parents:
        raise ConfigError(
            f"--out {asked.out} lies in {asked.run}, which stays as it is; name another folder"
        )
    models = [m.spec.model for m in run.bundle.models]
    given = {name: value for name in _KNOBS if (value := getattr(asked, name)) is not None}
    for name in _FLOORS:
        if not 0 <= given.get(name, 0) < float("inf"):
            raise ConfigError(f"--{name.replace('_', '-')} {given[name]}: must be 0 or more")
    judged = rescore(
        run,
        Asked(
            tiers=_tiers(asked, run.bundle),
            settings=given,
            part=_part(asked.window_s),
            published=published(models),
        ),
    )
    return run, judged


def _folder(asked: Namespace, judged: Bundle) -> Path | None:
    """Return the new folder; ``None`` where there is nothing new to write."""
    if asked.out is not None or judged.rescored is None:
        return asked.out
    return asked.run.resolve().parent / judged.provenance.run


def _tiers(asked: Namespace, bundle: Bundle) -> dict[str, tuple[SLOTier, ...]]:
    """Return the tiers that are asked for, by model; none where nothing is."""
    if asked.tiers is None and not asked.tier:
        return {}
    specs, where = tuple(m.spec for m in bundle.models), f"run {bundle.provenance.run}"
    models = [spec.model for spec in specs]
    if asked.tiers is not None:
        try:
            specs, where = (
                parse_tiers(asked.tiers.read_text("utf-8"), str(asked.tiers)),
                str(asked.tiers),
            )
        except (OSError, UnicodeDecodeError) as failed:
            raise ConfigError(f"--tiers {asked.tiers} cannot be read: {failed}") from failed
    chosen = choose_models(specs, models=models, tiers=asked.tier, where=where)
    return {name: spec.tiers for name, spec in chosen.items()}


def _part(text: str | None) -> Part:
    if text is None:
        return Part()
    first, colon, last = text.partition(":")
    try:
        part = (
            Part(start_s=float(first or 0), end_s=float(last) if last else None)
            if colon
            else Part(end_s=float(first))
        )
    except ValueError:
        part = Part(start_s=-1)
    end_s = float("inf") if part.end_s is None else part.end_s
    if not 0 <= part.start_s < end_s or part.end_s == float("inf"):
        raise ConfigError(
            f"--window-s {text!r} is no part of a window; write 300 for its first 300 s, 120: for "
            "what comes after 120 s, or 120:420"
        )
    return part


def _write(folder: Path, run: StoredRun, judged: Bundle) -> None:
    """Write the new folder; where nothing differs the bundle is the run's, byte for byte.

    What the run's gate said goes with such a copy: no copy of a regressed run is a baseline.
    """
    same = judged.rescored is None
    files = {
        "report.html": render_page(judged).encode(),
        "bundle.json": run.data if same else encode_bundle(judged),
    }
    comparison = run.path / _COMPARISON
    if same and comparison.exists():
        files[_COMPARISON] = comparison.read_bytes()
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise ConfigError(f"--out {folder}: there is something; name a new folder") from None
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _said(before: Bundle, after: Bundle) -> Iterator[str]:
    """Yield what has changed, and every answer beside the one that the run gave."""
    run = before.provenance.run
    if after.rescored is None:
        yield f"run {run}, judged as it was: its own judgement comes out again"
    else:
        yield from (f"run {run} again: {line}" for line in after.rescored.changed)
    gave = {(c.model, c.tier): c for c in before.capacities}
    for found in after.capacities:
        was = gave.get((found.model, found.tier))
        beside = "" if was is None or was == found else f"; the run said {answer_said(was)}"
        yield f"{found.model} {found.tier}: {answer_said(found)}{beside}"
    invalid = [p for p in after.phases if p.invalid]
    yield from (f"phase {p.number}, {p.agents} agents, is invalid: {p.invalid[0]}" for p in invalid)
    yield from (
        f"phase {p.number}, {p.agents} agents, does not answer {v.tier}: {v.reasons[0]}"
        for p in after.phases
        if not p.invalid
        for v in p.verdicts
        if v.outcome == "invalid"
    )


if __name__ == "__main__":
    sys.exit(main())
