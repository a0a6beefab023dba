from importlib import resources

import pytest

from pytest_agentperf.errors import ConfigError
from pytest_agentperf.slo import Limit, ModelSpec, SLOTier
from pytest_agentperf.tierfile import (
    choose_models,
    find_model,
    parse_tier_option,
    parse_tiers,
)

SHIPPED = parse_tiers(
    resources.files("pytest_agentperf").joinpath("tiers/aa-agentperf.yaml").read_text("utf-8"),
    "aa-agentperf.yaml",
)

PUBLISHED = {
    "deepseek-v4-pro": {"slo-1": (20, 10), "slo-2": (60, 5), "slo-3": (180, 3)},
    "gpt-oss-120b": {
        "slo-1": (100, 5),
        "slo-2": (250, 3),
        "slo-3": (500, 2),
        "slo-4": (2000, 1),
    },
    "deepseek-v3.2": {"slo-1": (30, 15), "slo-2": (100, 15), "slo-3": (300, 15)},
}
"""METHODOLOGY, section 4: P25 of output speed, P95 of TTFT."""


class TestShippedTiers:
    def test_are_those_of_the_methodology(self):
        assert {s.model: {t.name: bounds(t) for t in s.tiers} for s in SHIPPED} == PUBLISHED

    def test_bear_the_statistics_of_the_methodology(self):
        names = {tuple(limit.name for limit in t.limits) for s in SHIPPED for t in s.tiers}
        assert names == {("output_speed_tok_per_s.p25", "ttft_s.p95")}

    def test_allow_one_failure_in_a_hundred(self):
        assert {t.max_error_ratio for s in SHIPPED for t in s.tiers} == {0.01}

    @pytest.mark.parametrize(
        ("model", "request_fields"),
        [
            (
                "deepseek-v4-pro",
                {"temperature": 1.0, "top_p": 1.0, "reasoning_effort": "max"},
            ),
            ("gpt-oss-120b", {"temperature": 1.0, "top_p": 1.0, "reasoning_effort": "high"}),
            (
                "deepseek-v3.2",
                {"temperature": 1.0, "top_p": 0.95, "chat_template_kwargs": {"thinking": True}},
            ),
        ],
        ids=["DeepSeek V4 Pro", "gpt-oss-120b", "DeepSeek V3.2"],
    )
    def test_send_what_the_creator_recommends(self, model: str, request_fields: dict[str, object]):
        assert found(model).request == request_fields

    def test_have_room_for_the_longest_prompt(self):
        assert found("deepseek-v4-pro").context_tokens == 393_216


def bounds(tier: SLOTier) -> tuple[float, ...]:
    return tuple(limit.value for limit in tier.limits)


def found(name: str) -> ModelSpec:
    spec = find_model(SHIPPED, name)
    assert spec is not None
    return spec


@pytest.mark.parametrize(
    "name", ["gpt-oss-120b", "openai/gpt-oss-120b", "OpenAI/GPT-OSS-120B"],
    ids=["its own name", "an alias", "any case"],
)  # fmt: skip
def test_a_model_is_found_by(name: str):
    assert found(name).model == "gpt-oss-120b"


def test_a_model_that_no_entry_names_is_not_found():
    assert find_model(SHIPPED, "gpt-oss") is None


def test_a_tier_file_says_everything_once():
    (spec,) = parse_tiers(
        """
version: 1
models:
  - model: m
    aliases: [org/m]
    context_tokens: 8192
    max_tokens: 100
    request: {temperature: 0.5}
    reasoning_field: reasoning
    tiers:
      - {name: t, limits: {e2e_s.mean: 9}, max_error_ratio: 0, min_agents: 4}
""",
        "x.yaml",
    )
    limit = Limit(metric="e2e_s", statistic="mean", value=9.0)
    assert spec == ModelSpec(
        model="m",
        aliases=("org/m",),
        context_tokens=8192,
        max_tokens=100,
        request={"temperature": 0.5},
        reasoning_field="reasoning",
        tiers=(SLOTier(model="m", name="t", limits=(limit,), max_error_ratio=0.0, min_agents=4),),
    )


HEAD = "version: 1\nmodels:\n  - {model: m, tiers: ["


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "x.yaml: not YAML: while parsing"),
        ("hello", "x.yaml: expected keys and values, got 'hello'"),
        ("model: []", "x.yaml: unknown key 'model'; did you mean 'models'?"),
        ("models: []", "x.yaml: version is None; write 'version: 1'"),
        ("version: 1", "x.yaml: models: expected a list, got None"),
        ("version: 1\nmodels: [{}]", "x.yaml: models[0]: model: expected a text, got None"),
        (HEAD + "]}", "x.yaml: models[0]: tiers: expected a list, got []"),
        (
            HEAD + "{name: t, limits: {}}]}",
            "x.yaml: models[0] (m): tiers[0]: no limits; write e.g. ttft_s.p95: 5",
        ),
        (
            HEAD + "{name: a b, limits: {ttft_s.p95: 5}}]}",
            "tier name 'a b'; use letters, digits, '-', '_' and '.'",
        ),
        (
            HEAD + "{name: t, limits: {tttf_s.p95: 5}}]}",
            "SLO 't': x.yaml: models[0] (m): tiers[0]: unknown metric 'tttf_s'; did you mean 'ttft",
        ),
        (
            HEAD + "{name: t, limits: {ttft_s: 5}}]}",
            "'ttft_s' names no statistic; known: mean, p05, p10, p25, p50, p75, p90, p95, p99",
        ),
        (HEAD + "{name: t, limits: {ttft_s.p96: 5}}]}", "names no statistic; did you mean 'p9"),
        (HEAD + "{name: t, limits: {ttft_s.p95: 0}}]}", "ttft_s.p95 must be more than 0, got 0.0"),
        (HEAD + "{name: t, limits: {ttft_s.p95: x}}]}", "ttft_s.p95: expected a number, got 'x'"),
        (
            HEAD + "{name: t, limits: {ttft_s.p95: 5}, max_error_ratio: 1}]}",
            "max_error_ratio is a share from 0 to 1, got 1.0",
        ),
        (
            HEAD + "{name: t, limits: {ttft_s.p95: 5}}, {name: t, limits: {ttft_s.p95: 6}}]}",
            "x.yaml: models[0] (m): tier 't' stands twice; keep one",
        ),
        (
            HEAD + "{name: t, limits: {ttft_s.p95: 5}}], aliases: [m]}",
            "x.yaml: model or alias 'm' stands twice; keep one",
        ),
    ],
    ids=[
        "text that is no YAML",
        "a text instead of keys",
        "an unknown key",
        "no version",
        "no models",
        "a model without a name",
        "a model without tiers",
        "a tier without limits",
        "a tier name with a blank",
        "an unknown metric",
        "no statistic",
        "an unknown statistic",
        "a limit of zero",
        "a limit that is no number",
        "an error share of one",
        "a tier that stands twice",
        "an alias that stands twice",
    ],
)
def test_a_tier_file_is_refused_for(text: str, message: str):
    with pytest.raises(ConfigError) as refused:
        parse_tiers(text, "x.yaml")
    assert message in str(refused.value)


class TestTierOption:
    @pytest.mark.parametrize(
        ("text", "limits"),
        [
            ("x:speed>=50", {"output_speed_tok_per_s.p25": 50}),
            ("x:ttft<=3", {"ttft_s.p95": 3}),
            ("x:speed>=50,ttft<=1.5", {"output_speed_tok_per_s.p25": 50, "ttft_s.p95": 1.5}),
            ("x: e2e_s.p99 <= 2e1 ", {"e2e_s.p99": 20}),
        ],
        ids=["speed", "ttft", "both", "any statistic, with blanks"],
    )
    def test_names_limits(self, text: str, limits: dict[str, float]):
        tier = parse_tier_option(text, "m")
        assert tier is not None
        assert (tier.model, tier.name) == ("m", "x")
        assert {limit.name: limit.value for limit in tier.limits} == limits

    def test_a_bare_name_only_selects(self):
        assert parse_tier_option("slo-1", "m") is None

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("x:", "--tier 'x:': '' is no limit; write NAME:speed>=50,ttft<=3"),
            ("x:speed=5", "--tier 'x:speed=5': 'speed=5' is no limit; write NAME:speed>=50,ttft<="),
            (
                "x:ttft>=5",
                "--tier 'x:ttft>=5': ttft_s is a limit with <=, got >=",
            ),
            ("x:sped>=5", "--tier 'x:sped>=5': unknown metric 'sped'; did you mean 'speed'?"),
            ("x:ttft.p99<=5",
             "--tier 'x:ttft.p99<=5': unknown metric 'ttft.p99'; write ttft_s.p99"),
            (":speed>=5", "--tier ':speed>=5': tier name ''; use letters, digits, '-', '_'"),
            ("x:speed>=nan", "--tier 'x:speed>=nan': output_speed_tok_per_s.p25: expected a num"),
        ],
        ids=[
            "nothing after the colon",
            "another sign",
            "the wrong direction",
            "an unknown metric",
            "a short name with a statistic",
            "no name",
            "no number",
        ],
    )  # fmt: skip
    def test_is_refused_for(self, text: str, message: str):
        with pytest.raises(ConfigError) as refused:
            parse_tier_option(text, "m")
        assert str(refused.value).startswith(message)


def choose(*models: str, tiers: tuple[str, ...] = ()) -> dict[str, ModelSpec]:
    return choose_models(SHIPPED, models=models, tiers=tiers, where="aa.yaml")


NO_TIERS = (
    "no tiers for model 'gpt-oss-20b' in aa.yaml; did you mean 'gpt-oss-120b'? "
    "(or give limits, --tier 'NAME:speed>=50,ttft<=3', or a file, --agentperf-slo FILE)"
)


class TestChooseModels:
    def test_all_tiers_of_a_model_by_default(self):
        spec = choose("openai/gpt-oss-120b")["openai/gpt-oss-120b"]
        assert [t.name for t in spec.tiers] == ["slo-1", "slo-2", "slo-3", "slo-4"]

    def test_requests_carry_the_served_name(self):
        spec = choose("openai/gpt-oss-120b")["openai/gpt-oss-120b"]
        assert {spec.model, *(t.model for t in spec.tiers)} == {"openai/gpt-oss-120b"}
        assert spec.request["reasoning_effort"] == "high"

    def test_a_bare_name_selects(self):
        spec = choose("gpt-oss-120b", tiers=("slo-4",))["gpt-oss-120b"]
        assert [t.name for t in spec.tiers] == ["slo-4"]

    def test_limits_replace_the_listed_tiers(self):
        spec = choose("gpt-oss-120b", tiers=("mine:ttft<=3",))["gpt-oss-120b"]
        assert [t.name for t in spec.tiers] == ["mine"]

    def test_a_name_and_limits_join(self):
        spec = choose("gpt-oss-120b", tiers=("mine:ttft<=3", "slo-1"))["gpt-oss-120b"]
        assert [t.name for t in spec.tiers] == ["slo-1", "mine"]

    def test_a_tier_of_one_model_is_enough(self):
        chosen = choose("gpt-oss-120b", "deepseek-v3.2", tiers=("slo-4",))
        assert [len(spec.tiers) for spec in chosen.values()] == [1, 0]

    def test_an_unknown_model_needs_limits_of_its_own(self):
        spec = choose("mine", tiers=("t:speed>=5",))["mine"]
        assert (spec.model, spec.request, spec.tiers[0].name) == ("mine", {}, "t")

    @pytest.mark.parametrize(
        ("models", "tiers", "message"),
        [
            ((), (), "no --model was given; aa.yaml has tiers for deepseek-v4-pro, gpt-oss-120b, "),
            (("gpt-oss-20b",), (),
             NO_TIERS),
            (("gpt-oss-120b",), ("slo-9",), "--tier: no tier is called 'slo-9'; did you mean 'slo"),
            (("gpt-oss-120b",), ("slo-1", "slo-1:ttft<=3"),
             "--tier: tier 'slo-1' stands twice; keep one"),
        ],
        ids=["no model", "an unknown model", "an unknown tier", "a tier that stands twice"],
    )  # fmt: skip
    def test_refuses(self, models: tuple[str, ...], tiers: tuple[str, ...], message: str):
        with pytest.raises(ConfigError) as refused:
            choose(*models, tiers=tiers)
        assert str(refused.value).startswith(message)
