"""docs/options.md says what `Settings` says; `python -m tests.test_options_page` writes it anew."""

from pathlib import Path

from pytest_agentperf.settings import SMOKE, knobs, option_name

PAGE = Path(__file__).resolve().parents[1] / "docs" / "options.md"
HEAD = """# Options

Every option is also an ini value: `--agentperf-max-agents` is `agentperf_max_agents`. The command
line wins over the ini file, and both over the mode. In a checkout, and in the suites' own folder,
`--endpoint`, `--model`, `--tier`, `--dataset` and `--system` are short names.

| option | default | smoke | meaning |
|---|---|---|---|
"""


def _choices(names: tuple[str, ...]) -> str:
    return f" ({', '.join(f'`{name}`' for name in names)})" if names else ""


def page() -> str:
    rows = [
        f"| `{option_name(k.name)}` | {'' if k.default in (None, ()) else k.default} "
        f"| {SMOKE.get(k.name, '')} | {k.metadata['help']}{_choices(k.metadata['choices'])} |"
        for k in knobs()
    ]
    return HEAD + "\n".join(rows) + "\n"


def test_the_page_of_options_is_true() -> None:
    assert PAGE.read_text("utf-8") == page()


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
