"""A config file is data, read within limits: nothing in it runs, and nothing in it makes the reading endless."""

from __future__ import annotations

import pytest

from panoptic_plugin import load_config
from panoptic_plugin.config_files import base_chain
from panoptic_plugin.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()

    def _write(name: str, text: str):
        (folder / name).write_text(text, encoding="utf-8")
        return folder / name

    return _write


def test_a_python_tag_runs_nothing(write, tmp_path):
    marker = tmp_path / "marker"
    tag = "!!" + "python/object/apply:os.mkdir"  # in two pieces, because no file of the project may hold such a tag
    path = write("a.yaml", f"SEED: {tag} ['{marker}']\n")
    with pytest.raises(ConfigError, match=r"a\.yaml cannot be read: .*runs no code"):
        load_config(path)
    assert not marker.exists()


def test_a_cycle_lists_its_chain(write):
    write("a.yaml", "_BASE_: b.yaml\n")
    path = write("b.yaml", "_BASE_: [a.yaml]\n")
    with pytest.raises(ConfigError, match=r"_BASE_ leads back .*b\.yaml -> .*a\.yaml -> .*b\.yaml"):
        load_config(path)


def test_the_depth_is_bounded(write):
    for number in range(9):
        write(f"{number}.yaml", f"_BASE_: {number + 1}.yaml\n")
    with pytest.raises(ConfigError, match=r"0\.yaml: _BASE_ is nested more than 8 deep"):
        load_config(write("9.yaml", "SEED: 1\n").with_name("0.yaml"))
    assert load_config(write("9.yaml", "SEED: 4\n").with_name("2.yaml")).SEED == 4


def test_the_number_of_files_is_bounded(write):
    write("leaf.yaml", "SEED: 1\n")
    for number in range(6):
        below = f"{number - 1}.yaml" if number else "leaf.yaml"
        path = write(f"{number}.yaml", f"_BASE_: [{', '.join([below] * 9)}]\n")
    with pytest.raises(ConfigError, match=r"5\.yaml: _BASE_ leads to more than 64 files"):
        load_config(path)


@pytest.mark.parametrize("base", ["../outside/other.yaml", "{tmp}/outside/other.yaml"])
def test_base_files_lie_where_configs_do(write, tmp_path, monkeypatch, base):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "other.yaml").write_text("SEED: 5\n")
    path = write("a.yaml", f"_BASE_: {base.format(tmp=tmp_path)}\n")
    with pytest.raises(
        ConfigError, match=r"leads to .*outside/other\.yaml, outside the folders.*PANOPTIC_CONFIG_ROOTS"
    ):
        load_config(path)
    monkeypatch.setenv("PANOPTIC_CONFIG_ROOTS", str(tmp_path / "outside"))
    assert load_config(path).SEED == 5


def test_a_link_does_not_lead_out(write, tmp_path):
    (tmp_path / "secret.yaml").write_text("SEED: 5\n")
    path = write("a.yaml", "_BASE_: link.yaml\n")
    path.with_name("link.yaml").symlink_to(tmp_path / "secret.yaml")
    with pytest.raises(ConfigError, match=r"secret\.yaml, outside"):
        load_config(path)


def test_own_configs_are_reachable_from_anywhere(write, repository):
    base = repository / "configs" / "quick" / "panoptic_deeplab_cityscapes.yaml"
    assert load_config(write("a.yaml", f"_BASE_: {base}\nSEED: 9\n")).SEED == 9


def test_within_a_configs_folder_all_of_it_is_reachable(tmp_path):
    (tmp_path / "configs" / "a" / "b").mkdir(parents=True)
    (tmp_path / "configs" / "base.yaml").write_text("SEED: 3\n")
    leaf = tmp_path / "configs" / "a" / "b" / "leaf.yaml"
    leaf.write_text("_BASE_: ../../base.yaml\n")
    assert load_config(leaf).SEED == 3


@pytest.mark.parametrize(
    "text, message",
    [
        ("_BASE_: https://example.com/a.yaml\n", "expected a local file"),
        ("_BASE_: {a: 1}\n", "expected a local file"),
        ("_BASE_: 7\n", "expected a local file"),
        ("- 1\n", "holds a list"),
        ("SEED: 1\nSEED: 2\n", "stands twice"),
        ("? [1, 2]\n: 3\n", "cannot be read"),
        ("1: 2\n", "has the key 1"),
        ("SEED: [" * 5000, "nested too deep|cannot be read"),
        ("DATASETS: {TRAIN: 2020-99-99}\n", "cannot be read"),
        ("\x00", "cannot be read"),
        ("A: " + "x" * (1 << 20), "bytes, expected"),
        ("a: &a [" + "1, " * 100 + "]\nb: &b [" + "*a, " * 100 + "]\nc: [" + "*b, " * 100 + "]\n", "aliases repeat"),
    ],
)
def test_hostile_and_odd_files_are_one_clear_error(write, text, message):
    path = write("odd.yaml", text)
    with pytest.raises(ConfigError, match=rf"odd\.yaml.*({message})"):
        load_config(path)


@pytest.mark.parametrize(
    "text, words",
    [
        ("SOLVER: {MAX_ITER: many}", ["SOLVER.MAX_ITER is 'many', expected a whole number; at present it is "]),
        ("SOLVER: 3", ["SOLVER is 3, but it is a section, with the keys "]),
        (
            "DATASETS: {TRAIN: mine}",
            ["DATASETS.TRAIN is 'mine', expected a list, such as ['mine']; at present it is ()"],
        ),
        ("DATASETS: {CUSTOM: {NAME: mine}}", ["DATASETS.CUSTOM is {'NAME': 'mine'}, expected a list; at present"]),
        ("SOVLER: {MAX_ITER: 3}", ["no config key SOVLER. Did you mean 'SOLVER'?"]),
        ("solver: {max_iter: 3}", ["no config key solver. Did you mean 'SOLVER'?"]),
    ],
)
def test_values_of_another_type_and_wrong_keys(write, text, words):
    path = write("x.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert all(word in str(caught.value) for word in words)


def test_a_word_of_the_command_line_is_what_its_key_wants(write):
    path = write("x.yaml", "SOLVER: {BASE_LR: 1}")
    words = ["SOLVER.MOMENTUM", "0", "OUTPUT_DIR", "2026", "MODEL.WEIGHTS", "'7'", "DATASETS.TRAIN", "['a']"]
    cfg = load_config(path, words)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MOMENTUM) == (1.0, 0.0) and type(cfg.SOLVER.BASE_LR) is float
    assert (cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS, cfg.DATASETS.TRAIN) == ("2026", "7", ("a",))
    with pytest.raises(ConfigError, match="command line: solver.max_iter|Did you mean 'SOLVER.MAX_ITER'"):
        load_config(path, ["solver.max_iter", "3"])


def test_merging_order(write):
    write("one.yaml", "SEED: 1\n")
    write("two.yaml", "SEED: 2\n")
    path = write("top.yaml", "_BASE_: [one.yaml, two.yaml]\nVERSION: 2\n")
    assert [file.name for file, _ in base_chain(path)] == ["one.yaml", "two.yaml", "top.yaml"]
    assert load_config(path).SEED == 2
