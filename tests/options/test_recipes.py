"""Recipes: every one is whole, says what it is about, and takes a step with its own network at its own input size."""

import tomllib

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from lesioncam.cli import main
from lesioncam.cli.parse import parse
from lesioncam.cli.training import RunArgs, _with_recipe
from lesioncam.data.io.image import read_picture
from lesioncam.data.preprocess import Preprocess
from lesioncam.errors import OptionError
from lesioncam.models.checkpoint import load_classifier
from lesioncam.models.classifier import build_classifier
from lesioncam.options.recipes import describe_recipe, list_recipes, load_recipe, recipe_files
from lesioncam.options.run import make_config
from lesioncam.runs.folder import RunFolder
from lesioncam.verbs.train import train

NAMES = ["acam-brats", "chexnet", "figshare-brain", "gap-vgg16", "mnist-clear", "pcam-chestxray14", "pcam-chexpert"]


# ---- files -------------------------------------------------------------------------------------------------------


def test_the_recipes_of_the_package_are_whole():
    assert list(recipe_files()) == NAMES
    for name in NAMES:
        recipe = load_recipe(name)
        assert recipe.about is not None
        assert any(f"--recipe {name}" in line for line in recipe.about.command)
        said = describe_recipe(recipe)
        for word in (*recipe.about.paper, recipe.about.data, *recipe.about.differs, *recipe.about.unknown):
            assert word in said


def test_an_installed_package_brings_them(pytestconfig):
    project = tomllib.loads((pytestconfig.rootpath / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"] == {"recipes": "lesioncam/recipes"}
    assert sorted(path.stem for path in (pytestconfig.rootpath / "recipes").iterdir()) == NAMES


def test_every_recipe_is_documented(pytestconfig):
    page = (pytestconfig.rootpath / "docs" / "recipes.md").read_text()
    for name in NAMES:
        assert f"## {name}\n" in page
        about, said = load_recipe(name).about, " ".join(page.split())
        for sentence in (*about.differs, *about.unknown, *about.published, *about.command):
            assert " ".join(sentence.split()) in said


def test_a_run_s_own_options_are_a_recipe(tmp_path):
    config = make_config(size=96, pooling="lse,sharpness=6", task="multiclass")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    recipe = load_recipe(tmp_path / "config.yaml")
    assert recipe.config == config
    assert recipe.about is None
    assert "without a head" in describe_recipe(recipe)


def test_slips_are_named(tmp_path):
    place = tmp_path / "mine.yaml"

    def refused(text, reason):
        place.write_text(text)
        with pytest.raises(OptionError, match=reason):
            load_recipe(place)

    head = dict.fromkeys(("summary", "paper", "data", "command", "differs"), "x")
    refused("epochs: 0\n", "mine.yaml: epochs: .* greater than 0")
    refused("poolin: {kind: avg}\n", "mine.yaml: poolin: ")
    refused("[1, 2]\n", "holds list; expected options, NAME: VALUE")
    refused("a: [\n", "cannot be read as YAML")
    refused("about: words\n", "about is 'words'; it holds summary, paper")
    refused(yaml.safe_dump({"about": head | {"papers": "y"}}), "mine.yaml, about: papers: .*available: summary, paper")
    refused(yaml.safe_dump({"about": head | {"differs": []}}), "mine.yaml, about: differs: ")
    del head["differs"]
    refused(yaml.safe_dump({"about": head}), "mine.yaml, about: differs: Field required")
    with pytest.raises(OptionError, match="Unknown recipe 'mnist-claer'. Did you mean 'mnist-clear'"):
        load_recipe("mnist-claer")
    with pytest.raises(OptionError, match=r"no\.yaml cannot be read"):
        load_recipe(tmp_path / "no.yaml")


# ---- the command line --------------------------------------------------------------------------------------------


def read_words(*words):
    return parse(RunArgs, "run", list(words), default=_with_recipe(list(words))).config


def test_what_is_typed_wins_over_the_recipe():
    plain = read_words("t.csv", "--recipe", "chexnet")
    assert plain == load_recipe("chexnet").config
    typed = ["--size", "64", "--pooling", "lse,sharpness=6", "--optimizer", "sgd", "--weights", "none", "--epochs", "2"]
    for words in ((*typed, "--recipe", "chexnet"), ("--recipe=chexnet", *typed)):
        config = read_words("t.csv", *words)
        settled = make_config(plain, size=64, pooling="lse,sharpness=6", weights="none", epochs=2, optimizer="sgd")
        assert config == settled
        assert config.preprocess.mean == (0.485, 0.456, 0.406)  # the rest of the group stays the recipe's


def test_recipes_are_listed_and_shown(capsys):
    assert main(["run", "--recipe", "list"]) == 0
    said = capsys.readouterr().out
    assert said.strip() == list_recipes()
    assert [line.split()[0] for line in said.splitlines()] == NAMES
    assert main(["run", "--recipe", "chexnet", "--plan"]) == 0
    said = capsys.readouterr().out
    for words in ("Rajpurkar", "differs:", "unknown:", "lesioncam run films.csv --recipe chexnet"):
        assert words in said
    assert main(["run", "t.csv", "--recipe", "chex-net"]) == 2
    assert "Did you mean 'chexnet'" in capsys.readouterr().err


# ---- facts of the papers -----------------------------------------------------------------------------------------


def test_chexnet_trains_as_published():
    config = load_recipe("chexnet").config
    assert (config.optimizer.kind, config.learning_rate, config.batch) == ("adam", 1e-3, 16)
    assert (config.schedule.kind, config.schedule.factor, config.select) == ("plateau", 0.1, "loss")
    assert config.augment.model_dump(exclude_defaults=True) == {
        **dict.fromkeys(("rotation", "shift", "scale", "contrast", "gamma"), 0),
    }
    assert config.augment.flip == 0.5


@pytest.mark.parametrize("name", ["pcam-chexpert", "pcam-chestxray14"])
def test_pcam_films_are_prepared_as_in_the_authors_code(name):
    """Grey value v becomes (v - 128) / 64, a wide film is padded below with grey, and three channels are alike."""
    config = load_recipe(name).config
    assert config.pooling.model_dump() == {"kind": "pcam", "temperature": 1.0}
    plain = config.preprocess.model_copy(update={"equalise": False, "blur": 0.0})
    film = np.full((256, 512), 192, np.uint8)
    film[:, :256] = 64
    sample = Preprocess(plain)(film)
    assert sample.image.shape == (3, 512, 512)
    np.testing.assert_allclose(sample.image[:, 100, 10], -1, atol=1e-6)
    np.testing.assert_allclose(sample.image[:, 100, 500], 1, atol=1e-6)
    np.testing.assert_allclose(sample.image[:, 256:], 0, atol=1e-6)
    assert sample.valid[:256].all()
    assert not sample.valid[256:].any()
    full = Preprocess(config.preprocess)(film)
    np.testing.assert_allclose(full.image[:, 100, 500], (255 - 128) / 64, atol=1e-5)  # the brightest has rank 1
    assert config.augment.outside == 0


def test_chexpert_labels_are_read_as_published(tmp_path):
    findings = ["No Finding", "Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion", "Fracture"]
    rows = [[f"C/train/patient0000{i}/study1/view1_frontal.jpg", "F", 60 + i] for i in range(2)]
    cells = [["", "-1.0", "-1.0", "-1.0", "-1.0", "-1.0", "1.0"], ["", "1.0", "", "0.0", "1.0", "", ""]]
    frame = pd.DataFrame([a + b for a, b in zip(rows, cells, strict=True)], columns=["Path", "Sex", "Age", *findings])
    frame.to_csv(tmp_path / "train.csv", index=False)
    from lesioncam.data.table.table import read_table
    from lesioncam.data.table.targets import targets_of

    config = load_recipe("pcam-chexpert").config
    table = read_table(tmp_path / "train.csv", config=config.table)
    assert not table.problems
    assert table.patients().tolist() == ["patient00000", "patient00001"]
    assert table.classes == ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
    # the paper: uncertain is 1 for edema and atelectasis, 0 for the others; blank is 0
    assert targets_of(table, config.table, config.task).middle().tolist() == [[0, 1, 0, 1, 0], [1, 0, 0, 1, 0]]


# ---- one step of each --------------------------------------------------------------------------------------------


def write_films(folder, classes, *, exclusive, colour=False):
    """Made-up images, two for training or one of each class, two for validation."""
    rng = np.random.default_rng(0)
    rows, train = [], len(classes) if exclusive else 2
    for i in range(train + 2):
        image = rng.integers(0, 255, (90, 80), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{i}.png")
        row = {"image": f"{i}.png", "split": "train" if i < train else "val", "patient": f"P{i}"}
        if exclusive:
            row["label"] = classes[i % len(classes)]
        else:
            row |= {f"class:{name}": i % 2 for name in classes}
        rows.append(row)
    pd.DataFrame(rows).to_csv(folder / "t.csv", index=False)
    return folder / "t.csv"


def write_chexpert(folder, classes):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(4):
        name = f"train/patient{i:05d}/study1/view1_frontal.jpg"
        (folder / name).parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (90, 80), dtype=np.uint8)).save(folder / name)
        rows.append({"Path": name, "split": "train" if i < 2 else "val"} | dict.fromkeys(classes, float(i % 2)))
    pd.DataFrame(rows).to_csv(folder / "t.csv", index=False)
    return folder / "t.csv"


def write_slabs(folder):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(4):
        slab = nib.Nifti1Image(rng.normal(100, 20, (40, 48, 12)).astype(np.float32), np.diag([1.0, 1.0, 1.0, 1.0]))
        nib.save(slab, folder / f"{i}.nii.gz")
        split = "train" if i < 2 else "val"
        rows.append({"image": f"{i}.nii.gz", "class:tumour": i % 2, "split": split, "patient": f"P{i}"})
    pd.DataFrame(rows).to_csv(folder / "t.csv", index=False)
    return folder / "t.csv"


FINDINGS = ["Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"]
FINDINGS += ["Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"]
TUMOURS = ["glioma", "meningioma"]

DATA = {
    "acam-brats": write_slabs,
    "chexnet": lambda folder: write_films(folder, FINDINGS, exclusive=False),
    "figshare-brain": lambda folder: write_films(folder, TUMOURS, exclusive=True),
    "gap-vgg16": lambda folder: write_films(folder, TUMOURS, exclusive=True),
    "mnist-clear": lambda folder: write_films(folder, ["3", "8"], exclusive=True),
    "pcam-chestxray14": lambda folder: write_films(folder, FINDINGS, exclusive=False),
    "pcam-chexpert": lambda folder: write_chexpert(folder, load_recipe("pcam-chexpert").config.table.classes),
}

CELLS = {
    "acam-brats": (4, 16, 16),
    "chexnet": (7, 7),
    "figshare-brain": (12, 12),
    "gap-vgg16": (14, 14),
    "mnist-clear": (6, 6),
    "pcam-chestxray14": (16, 16),
    "pcam-chexpert": (16, 16),
}
"""Of the class maps: input size over stride, as in the papers where they say."""


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_takes_a_step_at_its_own_size(tmp_path, name):
    """Data and epochs are shrunk, and pretrained weights left out; network, input size and preprocessing stay."""
    if name == "acam-brats":
        pytest.importorskip("monai")
    recipe = load_recipe(name).config
    config = make_config(recipe, epochs=1, batch=4, weights="none", precision="fp32", threads=1)
    train(DATA[name](tmp_path), tmp_path / "run", config=config)
    trained = load_classifier(tmp_path / "run")
    first = build_classifier(config, len(trained.card.classes))
    began, ended = dict(first.named_parameters()), dict(trained.network.named_parameters())
    for end in (next(iter(began)), "head.weight"):  # branches between may begin behind a factor of 0
        assert not torch.equal(began[end], ended[end]), end
    assert all(torch.isfinite(values).all() for values in ended.values())
    history = pd.read_csv(RunFolder(tmp_path / "run").history)
    assert len(history) == 1
    assert np.isfinite(history["train_loss"]).all()
    assert trained.card.config.preprocess == recipe.preprocess
    assert trained.card.config.backbone == recipe.backbone
    image = read_picture(next(tmp_path.rglob("0*.nii.gz" if name == "acam-brats" else "*.[pj][np]g"))).pixels
    sample = Preprocess(config.preprocess)(image)
    with torch.no_grad():
        seen = trained.network.eval()(torch.from_numpy(sample.image)[None])
    assert tuple(seen.class_maps.shape[2:]) == CELLS[name]


@pytest.mark.slow
def test_mnist_clear_reads_99_of_100_digits(real_data, tmp_path):
    """The whole recipe on the real digits, in minutes; the clock is that of `make bench`."""
    from lesioncam.data.sources import index_source, write_index
    from lesioncam.verbs.evaluate import evaluate
    from lesioncam.verbs.run import run

    if not (real_data / "mnist").is_dir():
        pytest.skip("mnist of the real images is not here")
    table = write_index(index_source(f"mnist:{real_data / 'mnist'}"), tmp_path / "mnist.csv")
    done = run(table, tmp_path / "run", config=load_recipe("mnist-clear").config)
    evaluate(done, "test")
    cases = pd.read_csv(tmp_path / "run" / "evaluate" / "test" / "cases.csv")
    said = cases.loc[cases[cases["method"] == "cam"].groupby("image")["probability"].idxmax()]
    assert len(said) == 5000
    assert (said["label"] == 1).mean() >= 0.99
