"""What ``adapter=peft`` takes, against PEFT itself, and how the rest is refused."""

import dataclasses

import pytest
from omegaconf import OmegaConf
from peft import PEFT_TYPE_TO_CONFIG_MAPPING

from fl_app.adapters import checks
from fl_app.adapters.peft_methods import declared, rules, support
from fl_app.config import CONF_DIR, ConfigError, compose
from fl_app.preflight import check_node

PEFT = "model=vt5-tiny data=docvqa_mini adapter=peft"

# Every argument that may be set and is no number, switch or listed name. A version of PEFT with
# another one fails here: read in PEFT what it does with the text, then add it to support.DATA.
REVIEWED = {
    *("target_modules", "exclude_modules", "modules_to_save", "layers_pattern", "bias"),
    *("feedforward_modules", "rank_pattern", "alpha_pattern", "block_size_pattern"),
    *("lambda_pattern", "n_frequency_pattern", "target_svd_config", "trainable_token_indices"),
    *("encoder_reparameterization_type", "prompt_tuning_init", "act_fn", "variant"),
    *("wavelet_family", "init_weights"),
}


def test_methods_and_arguments_are_those_of_the_installed_peft() -> None:
    kinds = {kind.value: one for kind, one in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    assert declared.methods() == {name: one.__name__ for name, one in kinds.items()}
    for name, one in kinds.items():
        own = {field.name for field in dataclasses.fields(one) if field.init}
        assert {*declared.fields(name)} >= own, name
        assert {*rules.arguments(name)} <= own, name


def test_the_tables_name_methods_of_the_installed_peft() -> None:
    tables = (
        *(support.REFUSED, support.NO_CONV1D, support.CACHED, support.NOT_MERGED),
        *(support.CHANGED_START, support.QUANTIZED, support.REQUIRED),
    )
    for table in tables:
        assert {*table} <= {*declared.methods()}
    for name in {*declared.methods()} - {*support.REFUSED}:
        assert {*support.REQUIRED.get(name, ())} <= {*rules.arguments(name)}


def test_no_argument_can_name_a_file_code_or_another_model() -> None:
    assert support.DATA == REVIEWED
    for name in {*declared.methods()} - {*support.REFUSED}:
        for argument in rules.arguments(name):
            field = declared.fields(name)[argument]
            assert rules.is_simple(field) or argument in REVIEWED, f"{name}: {argument}"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("adapter.method=LOKRR", r"adapter\.method=LOKRR is no method of PEFT\. Did you mean 'LOK"),
        ("adapter.method=os.system", "no method of PEFT"),
        ("adapter.method=DoRA", r"Did you mean adapter\.method=LORA adapter\.args\.use_dora=true"),
        ("adapter.method=XLORA", "cannot be federated: it mixes adapters"),
        ("adapter.method=VERA adapter.args.vera_dropuot=0", r"Did you mean 'vera_dropout'\?"),
        ("adapter.method=VERA adapter.args.r=x", r"adapter\.args\.r='x' should be of type int"),
        ("adapter.method=VERA adapter.args.r=true", "should be of type int"),
        ("adapter.method=VERA adapter.args.r=1.5", "should be of type int"),
        ("adapter.args.target_modules=[[q]]", "should be of type"),
        ("adapter.method=MISS adapter.args.init_weights=bot", "should be of type"),
        ("adapter.method=LORA adapter.args.megatron_core=os", "could name a file, code"),
        ("adapter.method=LORA adapter.args.base_model_name_or_path=x", "may not be set"),
        ("adapter.method=LORA adapter.args.revision=x", "may not be set"),
        ("'adapter.args={auto_mapping:{a:b}}'", "may not be set"),
        ("adapter.method=LORA '+adapter.args.eva_config={rho:2}'", "may not be set"),
        ("adapter.method=LORA adapter.args.init_lora_weights=pissa", "change the base's weights"),
        ("adapter.method=PVERA adapter.args.sample_at_inference=true", "scores would be random"),
        ("adapter.method=PREFIX_TUNING", r"needs adapter\.args\.num_virtual_tokens"),
        (
            "adapter.method=P_TUNING adapter.args.num_virtual_tokens=4",
            "P_TUNING is not for pages",
        ),
        ("adapter.r=4", "is not an option"),
    ],
)
def test_what_is_wrong_is_refused_by_name(words: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_node(compose(f"{PEFT} {words}"))


LANGUAGE = "model=huggingface model.path=random task=causal_lm data=table adapter=peft"


def test_a_quantized_base_is_for_methods_that_have_layers_for_it() -> None:
    for method, args in (("LOKR", {}), ("LORA", {"use_dora": True})):
        cfg = compose(f"{LANGUAGE} adapter.method={method} model.quantization=4bit".split())
        given = compose(f"{PEFT} adapter.method={method} 'adapter.args={args}'").adapter
        cfg = cfg.copy()
        cfg._set_flag("readonly", False)
        cfg.adapter = given
        with pytest.raises(ConfigError, match=r"model\.quantization=4bit"):
            rules.check(cfg)


def test_a_name_is_written_as_peft_writes_it() -> None:
    assert compose(f"{PEFT} adapter.method=LoKr").adapter.method == "LOKR"
    assert compose(f"{PEFT} adapter.method=ln-tuning").adapter.method == "LN_TUNING"


def test_the_step_size_is_the_methods_own_for_a_pretrained_model() -> None:
    published = OmegaConf.load(CONF_DIR / "adapter" / "peft.yaml").recipe.methods
    assert {*published} <= {*declared.methods()} - {*support.REFUSED}
    rate = {
        method: compose(f"{LANGUAGE} adapter.method={method}").optimizer.lr
        for method in ("IA3", "VERA", "LOHA")
    }
    assert rate == {"IA3": 3e-3, "VERA": 4e-3, "LOHA": 2e-4}
    assert compose(PEFT).optimizer.lr == compose("").optimizer.lr


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("LOKR", "is not for gpt2: PEFT has it for nn.Linear"),
        ("TRAINABLE_TOKENS", "is not for classifiers"),
        ("PREFIX_TUNING", "is not for classifiers"),
        ("PROMPT_TUNING", "is not for classifiers of gpt2"),
        ("IA3", None),
    ],
)
def test_an_architecture_is_refused_before_weights_are_read(method: str, says: str | None) -> None:
    words = "model=huggingface model.path=random model.tokenizer=embedded:vt5_tiny data=table"
    words += " task=sequence_classification"
    words += " +model.config.model_type=gpt2 +model.config.n_layer=1 +model.config.n_embd=12"
    cfg = compose(f"{words} adapter=peft adapter.method={method}")
    if says is None:
        checks.check_model(cfg)
        return
    with pytest.raises(ValueError, match=says):
        checks.check_model(cfg)
