"""A model that a run has exported answers elsewhere as it did in the run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import fl_app
from fl_app.build import open_session
from fl_app.command.main import main
from fl_app.files import RESULTS
from fl_app.runs import exported, settings, trained
from fl_app.runs.read import read
from tests import architectures, small

ROWS = [
    {"text": f"{a} and {b}", "to": str(a + b), "kind": "odd" if (a + b) % 2 else "even"}
    for a in range(4)
    for b in range(3)
]
SMALL = "federation.clients=2 clients_per_round=2 rounds=1 local_epochs=1 strategy=fedavg"
HARD = "optimizer.lr=3e-2"  # so that the trained model answers otherwise than its base
TABLE = (
    "data=table data.train.path={rows} data.test.path={rows} data.validation.share=0.4 "
    "model=huggingface model.path={base} model.max_length=32 model.max_answer_length=6"
)
CAUSAL = "task=causal_lm \"task.prompt='{{text}}='\" \"task.response='{{to}}'\" task.reference=to"
LABELS = "task=sequence_classification task.texts=[text] task.label=kind task.labels=[odd,even]"
CASES = {  # kind of model, task, adapter
    "reference": ("llama", CAUSAL, "adapter=lora"),
    "copy": ("llama", CAUSAL, "adapter=lora_sb adapter.init=random output.base=copy"),
    "prompt": ("llama", CAUSAL, "adapter=peft adapter.method=PROMPT_TUNING "
               "adapter.args.num_virtual_tokens=3"),
    "classifier": ("bert", LABELS, "adapter=lora output.base=copy"),
    "whole": ("llama", CAUSAL, "adapter=full optimizer.lr=1e-3"),
    "4bit": ("llama", CAUSAL, "adapter=lora model.quantization=4bit"),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a function that makes the run of a case, once, and leaves it in a moved folder."""
    root = tmp_path_factory.mktemp("standalone")
    rows = root / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    found: dict[str, Path] = {}

    def make(case: str) -> Path:
        if case not in found:
            kind, task, adapter = CASES[case]
            base = root / f"base-{kind}"
            if not base.exists():
                changes = {"num_labels": 2} if kind == "bert" else {}
                architectures.model(kind, **changes).save_pretrained(base)
                template = "<s> $A"
                architectures.tokenizer(template).save_pretrained(base)
            words = f"{TABLE} {task}".format(rows=rows, base=base)
            rest = f"codec=fp32 {SMALL} {HARD} {adapter} logger=none output.name={case}"
            with pytest.MonkeyPatch.context() as patched:
                patched.setenv(RESULTS, str(root))
                found[case] = fl_app.run_experiment(f"{words} {rest}").path
        return found[case]

    make.root = root
    return make


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answers(folder: Path, out: Path, *words: str) -> list[dict]:
    assert main(["predict", str(folder), str(words[0]), *words[1:], "--out", str(out)]) == 0
    return lines(out)


@pytest.mark.parametrize("case", ["reference", "classifier"])
def test_a_moved_folder_answers_as_the_run_did(made, case: str, tmp_path: Path, capsys) -> None:
    run = made(case)
    moved = tmp_path / "moved"
    shutil.copytree(run / exported.LAST, moved)
    base = () if case == "classifier" else ("--base", str(made.root / "base-llama"))
    capsys.readouterr()
    found = answers(moved, tmp_path / "a.jsonl", made.root / "rows.jsonl", *base)
    final = read(run).final("test")["accuracy"]
    assert f"accuracy {100 * final:.2f} %" in capsys.readouterr().err
    right = [row["prediction"] == row["kind" if case == "classifier" else "to"] for row in found]
    assert sum(right) / len(right) == pytest.approx(final, abs=1e-6)
    (tmp_path / "few.csv").write_text("text\n1 and 2\n")
    few = answers(run, tmp_path / "b.jsonl", tmp_path / "few.csv", "--model", "best")
    assert few[0]["text"] == "1 and 2"
    if case == "classifier":
        assert sum(found[0]["probabilities"].values()) == pytest.approx(1)


ELSEWHERE = """
import json, sys
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

def load(name):
    if name == "whole":
        return AutoModelForCausalLM.from_pretrained(name)
    if name == "auto":
        return AutoPeftModelForCausalLM.from_pretrained(name)
    auto = AutoModelForSequenceClassification if name == "classifier" else AutoModelForCausalLM
    return PeftModel.from_pretrained(auto.from_pretrained(f"{name}/base"), name)

found = {}
for name in ("whole", "auto", "copy", "classifier"):
    model, tokenizer = load(name).eval(), AutoTokenizer.from_pretrained(name)
    with torch.no_grad():
        found[name] = model(**tokenizer("1 and 2=", return_tensors="pt")).logits[0].tolist()
assert load("classifier").config.id2label == {0: "odd", 1: "even"}
assert not [one for one in sys.modules if one.startswith("fl_app")]
print(json.dumps(found))
"""


def test_transformers_and_peft_load_it_in_a_process_elsewhere(made, tmp_path: Path) -> None:
    """With a base that the hub's name would find; here a folder has its place."""
    for case in ("whole", "copy", "classifier"):
        shutil.copytree(made(case) / exported.LAST, tmp_path / case)
    auto = shutil.copytree(made("reference") / exported.LAST, tmp_path / "auto")
    config = json.loads((auto / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None
    assert config["task_type"] == "CAUSAL_LM"
    config["base_model_name_or_path"] = str(made.root / "base-llama")
    (auto / "adapter_config.json").write_text(json.dumps(config))
    ran = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    for case, logits in json.loads(ran.stdout.splitlines()[-1]).items():
        model, tokenizer, _ = trained.load(trained.find(made(case.replace("auto", "reference"))))
        with torch.no_grad():
            mine = model(**tokenizer("1 and 2=", return_tensors="pt")).logits[0]
        assert torch.allclose(mine, torch.tensor(logits), atol=1e-5), case


@pytest.mark.parametrize("case", ["copy", "classifier", "4bit"])
def test_a_merged_model_computes_what_the_adapter_does(made, case: str, tmp_path: Path) -> None:
    run, out = made(case), tmp_path / "merged"
    assert main(["merge", str(run), str(out)]) == 0
    auto = AutoModelForSequenceClassification if case == "classifier" else AutoModelForCausalLM
    card = (out / "README.md").read_text()
    assert "a whole model, with the adapter merged (" in card
    assert "an adapter (" not in card
    merged, tokenizer = auto.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    model = trained.load(trained.find(run), dense=True).model
    inputs = tokenizer("1 and 2=", return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(merged(**inputs).logits, model(**inputs).logits, atol=1e-4)
    assert "PEFT is not needed" in (out / exported.CARD).read_text()
    assert answers(out, tmp_path / "m.jsonl", made.root / "rows.jsonl")
    assert main(["merge", str(run), str(out)]) == 2  # it is taken


def test_what_changes_no_weights_is_not_merged(made, tmp_path: Path, capsys) -> None:
    assert main(["merge", str(made("prompt")), str(tmp_path / "out")]) == 2
    assert "PROMPT_TUNING cannot be merged" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert answers(made("prompt"), tmp_path / "a.jsonl", made.root / "rows.jsonl")


def test_the_folder_says_what_it_is_and_nothing_of_this_machine(made) -> None:
    for case in ("reference", "copy", "classifier", "whole"):
        run = made(case)
        for folder in (run / exported.LAST, run / exported.BEST):
            texts = {
                p.name: p.read_text() for p in folder.glob("*") if p.suffix in (".json", ".md")
            }
            assert {"README.md", "tokenizer.json", settings.FILE} <= {*texts}
            assert not [name for name, text in texts.items() if str(made.root) in text]
            card = texts["README.md"]
            for part in ("no privacy", "FedAvg", "2, 2 in each round", "| train | 7 |", "theta0 "):
                assert part in card
            if case != "classifier":
                assert json.loads(texts["generation_config.json"])["max_new_tokens"] == 6


def test_what_does_not_fit_is_refused(made, tmp_path: Path, capsys) -> None:
    run, rows = made("copy"), made.root / "rows.jsonl"

    def refused(folder: Path, *words: str) -> str:
        capsys.readouterr()
        assert main(["predict", str(folder), *words]) == 2
        return capsys.readouterr().err

    (tmp_path / "odd.csv").write_text("texts\n1 and 2\n")
    assert "Did you mean 'texts'?" in refused(run, str(tmp_path / "odd.csv"))
    assert "is neither the folder of a run" in refused(tmp_path, str(rows))

    moved = shutil.copytree(made("reference") / exported.LAST, tmp_path / "moved")
    assert "name it with --base" in refused(moved, str(rows))
    other = tmp_path / "other"
    architectures.model("llama", initializer_range=0.2).save_pretrained(other)
    said = refused(moved, str(rows), "--base", str(other))
    assert "the adapter was trained on" in said

    config = json.loads((moved / "adapter_config.json").read_text())
    for name, sizes in (("r", {"r": 10**12}), ("q_proj", {"rank_pattern": {"q_proj": 10**12}})):
        (moved / "adapter_config.json").write_text(json.dumps({**config, **sizes}))
        said = refused(moved, str(rows), "--base", str(made.root / "base-llama"))
        assert f"{name}=1000000000000, and its tensors have at most" in said
    (moved / "adapter_config.json").write_text(json.dumps(config))

    whole = (moved / settings.FILE).read_text()
    for group, key, value in (("task", "id", "os.system"), ("model", "dtype", "float8")):
        odd = json.loads(whole)
        odd[group][key] = value
        (moved / settings.FILE).write_text(json.dumps(odd))
        said = refused(moved, str(rows), "--base", str(made.root / "base-llama"))
        assert "have a value that no run has" in said
    (moved / settings.FILE).write_text(whole)

    weights = moved / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    assert "is damaged" in refused(moved, str(rows), "--base", str(made.root / "base-llama"))

    config |= {"megatron_core": "os.nothing", "megatron_config": {"a": 1}, "auto_mapping": {}}
    (moved / "adapter_config.json").write_text(json.dumps(config))
    assert trained.adapter_config(moved).megatron_config is None
    (moved / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "XLORA"}))
    assert "XLORA" in refused(moved, str(rows), "--base", str(made.root / "base-llama"))
    slow = {**config, "init_lora_weights": "pissa_niter_99999999"}
    (moved / "adapter_config.json").write_text(json.dumps(slow))
    assert "change the base's weights" in refused(
        moved, str(rows), "--base", str(made.root / "base-llama")
    )
    said = json.loads((moved / settings.FILE).read_text())
    said["model"]["path"] = "/somewhere"
    (moved / settings.FILE).write_text(json.dumps(said))
    assert "path of another machine" in refused(moved, str(rows))


def test_the_start_is_the_model_before_training(made, tmp_path: Path) -> None:
    run = made("reference")
    session = open_session(small_words(run))
    found = trained.load(trained.find(run, "start"))
    rows = session.data["test"].select(range(2))
    session.adapter.set(session.model, session.theta0)
    assert found.task.predict(found.model, rows) == session.task.predict(session.model, rows)


def small_words(run: Path) -> str:
    return (run / "overrides.txt").read_text().strip()


@pytest.mark.parametrize("command", ["predict", "merge"])
def test_help_has_examples(command: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert not ended.value.code
    assert f"thinwire {command} runs/NAME" in capsys.readouterr().out


def test_a_documents_model_is_loaded_too(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(RESULTS, str(tmp_path))
    words = f"{small.RUN} {small.VT5} logger=none rounds=1 model.max_answer_length=4 output.name=v"
    run = fl_app.run_experiment(f"{words} strategy=fedavg codec=fp32 clients_per_round=2").path
    rows = open_session((run / "overrides.txt").read_text().strip()).data["test"]
    rows.to_json(tmp_path / "rows.jsonl")
    found = answers(run / exported.LAST, tmp_path / "a.jsonl", tmp_path / "rows.jsonl")
    assert [len(row["prediction"]) for row in found] == [len(row["questions"]) for row in rows]
    assert "a class of Thinwire's own" in (run / exported.LAST / exported.CARD).read_text()
