"""The run folder: opening and reopening, checkpoints, metrics, finding runs."""

import pickle
from pathlib import Path

import pytest
import torch
from conftest import LOGGED

from ganseg import checkpoints, config, runs, sources
from ganseg.errors import UserError
from ganseg.model import loading


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


class Evil:
    """Unpickling this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_opening_a_new_run_writes_nothing(tiny_run, tmp_path):
    run = tiny_run(n_parts=4)
    assert run.cfg.n_parts == 4 and run.folder == tmp_path / "outputs" / "creatures" / "run"
    assert list(tmp_path.iterdir()) == [] and run.load_state("gan") is None and run.records("train") == []


def test_a_started_run_is_reopened_as_it_was_saved(tiny_run):
    (run := tiny_run(n_parts=4, seed=3)).start("cpu")
    again = runs.open_run("creatures", "run")
    assert again.cfg == run.cfg and again.folder == run.folder and again.label == "creatures/run"


@pytest.mark.parametrize("field, old, new", [("n_parts", 3, 4), ("lambda_con", 7.0, 8.0), ("seed", 0, 1)])
def test_reopening_with_another_setting_is_refused_and_changes_nothing(tiny_run, tmp_path, field, old, new):
    run = tiny_run(**{field: old})
    run.start("cpu")
    run.save("gan", 1, {})
    before = contents(tmp_path)
    with pytest.raises(UserError) as error:
        runs.open_run("creatures", "run", **{field: new})
    assert all(word in str(error.value) for word in (f"{field}: ", "creatures/run", repr(old), repr(new)))
    assert contents(tmp_path) == before


def test_a_run_without_a_checkpoint_takes_other_settings(tiny_run):
    """After out of memory or a loss that is not finite the advice is another batch_size, seed or image_size."""
    tiny_run(lambda_con=7.0).start("cpu")
    cfg = runs.open_run("creatures", "run", batch_size=2, seed=5).cfg
    assert (cfg.batch_size, cfg.seed, cfg.lambda_con) == (2, 5, 7.0)
    runs.open_run("creatures", "filled").start("cpu")
    larger = runs.open_run("creatures", "filled", image_size=64).cfg  # what was filled in for 32 pixels follows
    assert larger.resolutions == [16, 32, 64] and len(larger.discriminator_channels) == 5
    assert runs.open_run("creatures", "filled", preset="small").cfg == config.load("creatures", "small")


def test_a_run_opened_before_another_command_trained_it_does_not_take_it_for_its_own(tiny_run):
    early, other = tiny_run(lambda_con=10.0), tiny_run(lambda_con=5.0)
    other.start("cpu")
    other.save("gan", 1, {})
    before = contents(early.folder)
    with pytest.raises(UserError, match="lambda_con: .* was made with 5.0, not 10.0"):
        early.start("cpu")
    assert contents(early.folder) == before
    tiny_run(max_steps=9).start("cpu")


def test_pruning_never_deletes_what_was_just_saved(tiny_run, capsys):
    """Damaged checkpoints after the one that a training goes on from do not count as newer ones."""
    run = tiny_run(keep_checkpoints=1)
    run.start("cpu")
    run.save("gan", 1, {})
    for step in (8, 9):
        (run.folder / "checkpoints" / f"gan-{step:08d}.pt").write_bytes(b"")
    run.save("gan", 2, {})
    assert run.load_state("gan")["step"] == 2


def test_settings_of_the_running_alone_may_change(tiny_run):
    tiny_run().start("cpu")
    changed = {"max_steps": 9, "device": "auto", "source": "/elsewhere", "log_every_steps": 2,
               "sample_every_steps": 3, "save_every_steps": 4, "keep_checkpoints": 5}
    cfg = runs.open_run("creatures", "run", **changed).cfg
    assert {field: getattr(cfg, field) for field in changed} == changed


def test_the_segmenter_may_change_until_there_is_one(tiny_run):
    run = tiny_run()
    run.start("cpu")
    assert tiny_run(segmenter_width=7).cfg.segmenter_width == 7
    run.save("segmenter", 1, {})
    with pytest.raises(UserError, match="segmenter_width: "):
        tiny_run(segmenter_width=7)


def test_an_unknown_setting_is_refused_on_reopening_too(tiny_run):
    tiny_run().start("cpu")
    with pytest.raises(UserError, match="did you mean n_parts"):
        tiny_run(n_partz=3)


@pytest.mark.parametrize("needs, notebook", [("gan", "train"), ("segmenter", "distill")])
def test_a_missing_stage_names_the_command_that_makes_it(tiny_run, needs, notebook):
    for start in (False, True):
        if start:
            tiny_run().start("cpu")
        with pytest.raises(UserError, match=f"no trained {needs}.*ganseg {notebook} -p dataset creatures --run run"):
            tiny_run(needs=needs)


def test_a_run_that_is_not_there_is_looked_for_among_those_of_all_data_sets(tiny_run):
    tiny_run("flowers").start("cpu")
    with pytest.raises(UserError, match=r"tiny/flower has no trained gan \(did you mean creatures/flowers\?\)"):
        runs.open_run("tiny", "flower", needs="gan")


@pytest.mark.parametrize("name", ["../x", "a/b", "/tmp/x", "..", ".x", "-x", "", "a b", "x\n"])
def test_a_run_name_that_is_no_plain_folder_name_is_refused(tiny_run, name):
    with pytest.raises(UserError, match="run: .*is not allowed"):
        tiny_run(name)


def test_saving_keeps_the_newest_checkpoints_of_each_stage(tiny_run):
    run = tiny_run(keep_checkpoints=2)
    run.start("cpu")
    for step in (8, 9, 100):
        run.save("gan", step, {"x": torch.tensor(step)})
    run.save("segmenter", 1, {})
    assert [path.name for path in run.checkpoints("gan")] == ["gan-00000009.pt", "gan-00000100.pt"]
    state = run.load_state("gan")
    assert state["step"] == 100 and state["x"] == 100 and state["config"] == run.cfg.model_dump()
    assert len(run.checkpoints("segmenter")) == 1


def test_a_crash_while_saving_leaves_the_checkpoint_before(tiny_run, monkeypatch):
    run = tiny_run(keep_checkpoints=1)
    run.start("cpu")
    run.save("gan", 1, {})

    def crash(state, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(KeyboardInterrupt):
        run.save("gan", 2, {})
    assert run.load_state("gan")["step"] == 1


def test_a_truncated_checkpoint_is_refused_by_its_path(trained):
    path = trained.newest("gan")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match=f"{path.name}: cannot be loaded, it is damaged or not a checkpoint"):
        trained.load_state("gan")


@pytest.mark.parametrize("save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x, protocol=2))])
def test_a_file_that_would_run_code_is_refused_and_does_not_run_it(tmp_path, save):
    save({"step": 1, "x": Evil(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="evil.pt: .*more than tensors and plain values"):
        checkpoints.load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Evil(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()  # it would have


def test_a_checkpoint_that_is_missing_or_not_a_dict_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        checkpoints.load_checkpoint(tmp_path / "none.pt")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(UserError, match="tensor.pt: "):
        checkpoints.load_checkpoint(tmp_path / "tensor.pt")
    for content in (b"", b"<html>not found</html>"):
        (tmp_path / "page.pt").write_bytes(content)
        with pytest.raises(UserError, match="page.pt: .*is damaged or not a checkpoint"):
            checkpoints.load_checkpoint(tmp_path / "page.pt")


def test_a_checkpoint_of_another_shape_is_refused_naming_a_weight(trained, tiny):
    state = trained.load_state("gan")["generator"]
    with pytest.raises(UserError, match="gan.pt: its weights do not fit this configuration: .*w_const"):
        checkpoints.load_weights(loading.build_generator(tiny(embedding_dim=5)), state, "gan.pt")
    with pytest.raises(UserError, match="gan.pt: .*w_const") as error:
        checkpoints.load_weights(loading.build_generator(tiny()), {}, "gan.pt")
    assert len(str(error.value)) < 300 and "\n" not in str(error.value)  # not all the missing ones


def test_records_are_read_by_stage_and_a_cut_line_is_passed_over(tiny_run):
    (run := tiny_run()).start("cpu")
    first = run.log("train", 1, loss=0.5, **LOGGED)
    run.log("distill", 1, loss=0.25, **LOGGED)
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"stage": "train", "st')
    assert run.records("train") == [first] == [{"stage": "train", "step": 1, "loss": 0.5, **LOGGED}]


def test_rewinding_forgets_later_steps_of_the_named_stages_and_cut_lines(tiny_run):
    run = tiny_run()
    run.rewind({"train"}, 0)  # nothing there yet
    run.start("cpu")
    for stage, step in [("train", 1), ("distill", 9), ("train", 2), ("train", 3)]:
        run.log(stage, step, **LOGGED)
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"stage": "train", "st')
    run.rewind({"train"}, 2)
    run.log("train", 3, again=True, **LOGGED)
    assert [record["step"] for record in run.records("train")] == [1, 2, 3] and run.records("distill")
    assert run.records("train")[-1]["again"]


def test_a_run_is_found_by_name_by_data_set_and_name_and_by_folder(tiny_run):
    (run := tiny_run("demo")).start("cpu")
    for name in ("demo", "creatures/demo", str(run.folder)):
        found = runs.find(name)
        assert found.folder == run.folder and found.cfg == run.cfg


def test_a_name_of_two_runs_is_refused_naming_both(tiny_run):
    run = tiny_run("demo")
    for dataset in ("creatures", "lfw"):
        runs.Run(runs.outputs_root() / dataset / "demo", run.cfg).start("cpu")
    with pytest.raises(UserError, match="could be creatures/demo, lfw/demo"):
        runs.find("demo")
    assert runs.find("lfw/demo").label == "lfw/demo"


def test_an_unknown_run_is_refused_naming_the_nearest(tiny_run):
    with pytest.raises(UserError, match="make one with: ganseg train"):
        runs.find("demo")
    tiny_run("demo").start("cpu")
    for name, near in (("dmeo", "demo"), ("creatures/dmeo", "creatures/demo")):
        with pytest.raises(UserError, match=rf"did you mean {near}\?\); known are creatures/demo"):
            runs.find(name)
    with pytest.raises(UserError, match="there is no 'lfw/demo'"):  # a run of that name, of other data
        runs.find("lfw/demo")


def test_a_setting_can_be_set_back_and_a_limit_of_time_is_of_one_command(tiny_run):
    tiny_run(fit_pictures=5, max_minutes=3.0, keep_every_steps=2).start("cpu")
    assert tiny_run().cfg.fit_pictures == 5 and tiny_run().cfg.max_minutes is None
    assert tiny_run(fit_pictures="none").cfg.fit_pictures is None
    assert tiny_run(keep_every_steps="none").cfg.keep_every_steps is None


def test_settings_are_checked_after_what_was_remembered_is_added(tmp_path, monkeypatch):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path))
    assert runs.open_run("creatures", "x", discriminator_channels=[4]).cfg.discriminator_channels == [4] * 4
    sources.remember("cub", source="/data/cub", split_list="/data/list.txt")
    assert runs.open_run("cub", "x").cfg.source == "/data/cub"
    moved = runs.open_run("cub", "x", source="/moved").cfg
    assert (moved.source, moved.split_list) == ("/moved", "/data/list.txt")


@pytest.mark.parametrize("content", ["[1, 2]", '{"source": 3}', '{"n_parts": 4}', "nonsense", ""])
@pytest.mark.parametrize("path", ["cub/sources.json", "cache/cub/paths.json"])
def test_damaged_remembered_paths_are_one_sentence(tmp_path, monkeypatch, content, path):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path))
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(content)
    with pytest.raises(UserError, match="s.json: is damaged; name the pictures again with ganseg prepare -p dataset c"):
        runs.open_run("cub", "x")


def test_what_older_code_remembered_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path))
    (tmp_path / "cache" / "cub").mkdir(parents=True)
    (tmp_path / "cache" / "cub" / "paths.json").write_text('{"source": "/data/CUB.tgz", "split_list": "/list.txt"}')
    cfg = runs.open_run("cub", "x").cfg
    assert (cfg.source, cfg.split_list) == ("/data/CUB.tgz", "/list.txt")


def test_own_collections_are_told_apart_by_their_names(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sources.remember("folder", source="/mine/flowers.zip")
    assert runs.open_run("folder", "x").cfg.source == "/mine/flowers.zip" and not capsys.readouterr().out
    sources.remember("folder", source="/mine/birds")
    assert "-p source birds means /mine/birds from now on; known before: flowers." in capsys.readouterr().out
    with pytest.raises(UserError, match="there are several collections, flowers, birds; say which with -p source NAME"):
        runs.open_run("folder", "x")
    assert runs.open_run("folder", "x", source="flowers").cfg.source == "/mine/flowers.zip"
    assert runs.open_run("folder", "x", source="/else").cfg.source == "/else"
    sources.remember("folder", source="/yours/birds")  # another one of that name
    assert runs.open_run("folder", "x", source="yours/birds").cfg.source == "/yours/birds"
    assert runs.open_run("folder", "x", source="birds").cfg.source == "/mine/birds"
    (tmp_path / "birds").mkdir()  # what is there goes before a name
    assert runs.open_run("folder", "x", source="birds").cfg.source == str(tmp_path / "birds")
    capsys.readouterr()
    sources.remember("folder", source="/mine/birds")
    assert not capsys.readouterr().out


def test_a_data_set_that_moved_is_announced(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GANSEG_OUTPUTS", str(tmp_path))
    for path in ("/a/CUB", "/a/CUB", "/b/CUB"):
        sources.remember("cub", source=path)
    assert capsys.readouterr().out == "cub: /b/CUB takes the place of /a/CUB.\n"
    assert runs.open_run("cub", "x").cfg.source == "/b/CUB"


PATHS = ["source", "split_list", "warm_start", "features_weights", "backbone_weights", "finetune_on"]


@pytest.mark.parametrize("field", PATHS)
def test_a_path_is_saved_as_absolute_and_means_the_same_from_another_folder(tiny_run, tmp_path, monkeypatch, field):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "red").write_text("")
    monkeypatch.chdir(tmp_path)
    (run := tiny_run(**{field: "data/red"})).start("cpu")
    run.save("gan", 1, {})
    (tmp_path / "b" / "data").mkdir(parents=True)
    (tmp_path / "b" / "data" / "red").write_text("others")
    monkeypatch.chdir(tmp_path / "b")
    assert getattr(tiny_run().cfg, field) == getattr(runs.find(run.folder).cfg, field) == str(tmp_path / "data" / "red")
    monkeypatch.chdir(tmp_path)
    tiny_run(**{field: "data/red"})  # the same one


def test_a_path_of_older_code_is_compared_with_what_it_means(tiny_run, tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    run = tiny_run()
    run.start("cpu")
    config.write(run.cfg.model_copy(update={"split_list": "list.txt"}), run.folder / "config.yaml", {})
    run.save("gan", 1, {})
    assert tiny_run(split_list="list.txt").cfg.split_list == tiny_run().cfg.split_list == str(tmp_path / "list.txt")


def test_a_path_is_looked_for_from_the_working_directory_then_from_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config.load("folder", source="params").source == str(config.ROOT / "params")
    (tmp_path / "params").mkdir()
    for source in ("params", "~/params", "./params"):
        assert config.load("folder", source=source).source == str(tmp_path / "params")
    assert config.load("folder", source="x" * 300).source == str(tmp_path / ("x" * 300))  # refused where it is read
    words = config.load("folder", features_weights="imagenet", backbone_weights="none", warm_start="none")
    assert (words.features_weights, words.backbone_weights, words.warm_start) == ("imagenet", "none", None)


def test_weights_that_only_distillation_would_miss_are_missed_at_once(tiny_run, tmp_path):
    with pytest.raises(UserError, match="backbone_weights: there is no file .*/resnet.pt; name one, imagenet or none"):
        tiny_run(backbone_weights="resnet.pt")
    tiny_run(backbone_weights="imagenet")


def test_a_home_folder_is_meant_by_a_tilde_in_the_outputs_and_in_a_runs_name(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GANSEG_OUTPUTS", "~/kept")
    run = runs.open_run("creatures", "x")
    run.start("cpu")
    assert run.folder == tmp_path / "home" / "kept" / "creatures" / "x" and not (tmp_path / "~").exists()
    assert runs.find("~/kept/creatures/x").folder == run.folder
