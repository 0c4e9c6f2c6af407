"""A methods paragraph and its references: exactly what was used, nothing that was not; facts, for the authors to edit.

References are cited as ``[@key]``, which pandoc turns into LaTeX, Word or HTML; the keys are those of
``references.bib`` beside this file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple

from lesioncam.evaluation.metric import METRICS
from lesioncam.options.poolings import POOLING_KINDS
from lesioncam.runs.summary import Summary


class Described(NamedTuple):
    """What a paragraph says about one run.

    Attributes:
        name: how the run is called.
        config: the options, flat: ``backbone.name`` and the like; empty for another tool's maps.
        summary: of the evaluation.
        foreign: maps of another tool.
    """

    name: str
    config: Mapping[str, object]
    summary: Summary
    foreign: bool = False


class Protocol(NamedTuple):
    """How the runs were compared.

    Attributes:
        split: ``test`` or ``val``.
        images: shared by all runs.
        patients: behind them; None where no run knows who is who.
        metrics: those that were defined.
        draws: of the bootstrap.
        seed: of the draws.
        version: of this program.
        exclusive: balanced accuracy is that of the arg-max.
        paired: runs were compared in pairs.
        repeated: seeds or folds were repeated, or masks of runs compared with each other.
    """

    split: str
    images: int
    patients: int | None
    metrics: Sequence[str]
    draws: int
    seed: int
    version: str
    exclusive: bool = False
    paired: bool = True
    repeated: bool = False


FAMILIES = (
    (("slim", "resnet10", "resnet14", "resnet18", "resnet26", "resnet34", "resnet50", "resnet101", "resnet152"),
     "he2016resnet"),
    (("densenet",), "huang2017densenet"),
    (("efficientnet", "tf_efficientnet"), "tan2019efficientnet"),
    (("convnext",), "liu2022convnext"),
    (("swin",), "liu2021swin"),
    (("vit_",), "dosovitskiy2021vit"),
    (("mobilenetv3",), "howard2019mobilenetv3"),
)  # fmt: skip
CALIBRATIONS = {
    "temperature": "temperature scaling [@guo2017calibration]",
    "platt": "a logistic fit [@platt1999]",
    "isotonic": "isotonic regression [@zadrozny2002]",
}
RULES = {
    "youden": "the highest sum of sensitivity and specificity [@youden1950]",
    "sensitivity": "a sensitivity of at least {}",
    "specificity": "a specificity of at least {}",
    "cost": "the lowest cost of misses and false alarms ({})",
}


def methods_text(runs: Sequence[Described], protocol: Protocol) -> str:
    """The text: how the runs were trained, how maps were made, how they were measured; a paragraph each.

    Example:
        >>> summary = Summary(split="test", method="cam", classes=("mass",))
        >>> run = Described("a", {"pooling.kind": "avg"}, summary)
        >>> protocol = Protocol("test", 50, 17, ("dice",), 2000, 0, "0.1.0", paired=False)
        >>> methods_text([run], protocol).split(". ")[1].splitlines()[0]
        'Image scores were pooled by the mean of the class map [@zhou2016cam].'
    """
    own = [run for run in runs if not run.foreign]
    parts = [
        [*_models(own), *_training(own), *_foreign(runs)],
        [*_maps(own), *_choices(runs)],
        [*_measures(protocol), *_comparison(runs, protocol), *_software(own, protocol)],
    ]
    paragraphs = [" ".join(filter(None, sentences)) for sentences in parts]
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def bibliography(text: str) -> str:
    """BibTeX of every reference that a text cites, in the order of their keys.

    Raises:
        KeyError: for a key that ``references.bib`` lacks.

    Example:
        >>> bibliography("Dice [@dice1945].").splitlines()[0]
        '@article{dice1945,'
    """
    keys = sorted(set(re.findall(r"@([A-Za-z0-9_]+)", text)))
    return "\n\n".join(_references()[key] for key in keys) + "\n" * bool(keys)


# ---- sentences ---------------------------------------------------------------------------------------------------


def _models(runs: Sequence[Described]) -> list[str]:
    own = [run for run in runs if run.config.get("pooling.kind")]  # a network that was adopted has no pooling of ours
    adopted = [run.name for run in runs if run not in own]
    said = [f"{_listed(adopted)} {'was' if len(adopted) == 1 else 'were'} trained elsewhere."] if adopted else []
    if not own:
        return said
    who = "The other classifiers" if adopted else "Classifiers"
    return [
        *said,
        f"{who} were trained from image-level labels alone; no mask or box was used in training.",
        _each(own, "Image scores were pooled by {}.", _pooling),
        _each(own, "The backbone was {}.", _backbone),
        _each(own, "Weights were initialised {}.", _start),
    ]


def _training(own: Sequence[Described]) -> list[str]:
    known = [run for run in own if run.config.get("epochs")]
    if not known:
        return []
    return [
        _each(known, "The loss was {}.", _learning),
        _each(known, "Training took {}.", _budget),
        _each(known, "The epoch with the {} was kept.", _kept),
    ]


LOSSES = {
    "bce": "the binary cross-entropy of each class over known labels",
    "focal": "the focal loss (gamma {gamma}) [@lin2017focal] of each class over known labels",
    "class_balanced": (
        "the binary cross-entropy of each class over known labels, weighted by the effective number of images (beta "
        "{beta}) [@cui2019balanced]"
    ),
    "aucpr": (
        "a bound on the area under the precision-recall curve with {anchors} anchors [@eban2017nondecomposable], after "
        "one epoch of binary cross-entropy"
    ),
}
SOFTMAX_LOSSES = {
    "bce": "the softmax cross-entropy over images of known class",
    "focal": "the focal loss (gamma {gamma}) [@lin2017focal] of the softmax over images of known class",
    "class_balanced": (
        "the softmax cross-entropy over images of known class, weighted by the effective number of images (beta "
        "{beta}) [@cui2019balanced]"
    ),
}
OPTIMIZERS = {
    "adamw": "AdamW [@loshchilov2019adamw]",
    "adam": "Adam [@kingma2015adam]",
    "sgd": "stochastic gradient descent",
}
SCHEDULES = {
    "onecycle": "a one-cycle learning rate [@smith2019onecycle]",
    "constant": "a constant learning rate",
    "cosine": "a learning rate that fell along half a cosine [@loshchilov2017sgdr]",
    "step": "a learning rate that fell in steps",
    "plateau": "a learning rate that fell when the validation loss did not",
}


def _learning(run: Described) -> str:
    config = run.config
    losses = SOFTMAX_LOSSES if config.get("task") in {"multiclass", "ordinal"} else LOSSES
    options = {key.removeprefix("loss."): value for key, value in config.items() if key.startswith("loss.")}
    loss = losses.get(str(options.get("kind", "bce")), "")
    optimizer = OPTIMIZERS.get(str(config.get("optimizer.kind", "adamw")), "")
    schedule = SCHEDULES.get(str(config.get("schedule.kind", "onecycle")), "")
    if not (loss and optimizer and schedule):
        return ""
    return f"{loss.format(**options)}, the optimiser {optimizer} with {schedule}"


def _kept(run: Described) -> str:
    asked = str(run.config.get("select", "auto"))
    if asked == "auto":
        asked = "kappa" if run.config.get("task") == "ordinal" else "auroc"
    return {
        "auroc": "highest validation AUROC",
        "kappa": "highest quadratic-weighted kappa on validation [@cohen1968kappa]",
        "loss": "lowest validation loss",
    }.get(asked, "")


def _foreign(runs: Sequence[Described]) -> list[str]:
    names = [run.name for run in runs if run.foreign]
    if not names:
        return []
    made = "were made by another tool and measured by the same protocol; how they were made is for the authors to say."
    return [f"The maps of {_listed(names)} {made}"]


def _maps(own: Sequence[Described]) -> list[str]:
    if not own:
        return []
    return [_each(own, "Heat maps were {}.", _map)]


def _choices(runs: Sequence[Described]) -> list[str]:
    return [
        _each(runs, "Maps became masks {}.", _thresholds),
        _each(runs, "An image was called positive at or above a threshold chosen on validation images for {}.", _rule),
        _each(runs, "Image scores were calibrated by {}.", lambda run: _calibration(run, "images")),
        _each(runs, "Map values were calibrated by {}.", lambda run: _calibration(run, "maps")),
    ]


def _measures(protocol: Protocol) -> list[str]:
    told = {name: one.sentence for (_, name), one in METRICS.items() if one.sentence}
    names = [told[name] for name in protocol.metrics if name in told]
    where = {"test": "test images", "val": "validation images, on which thresholds were chosen,"}[protocol.split]
    people = "" if protocol.patients is None else f" of {protocol.patients} patients"
    behind = f"{protocol.images} {where}{people}"
    found = [f"Runs were measured on the {behind} that all of them share."] if protocol.paired else []
    found += [f"Reported are {_listed(names)}."] if names else []
    if protocol.exclusive and "balanced_accuracy" in protocol.metrics:
        found.append("Balanced accuracy is the mean recall of the class with the highest score.")
    found.append("Class values are averaged with equal weight; what is undefined for an image is left out and counted.")
    return found


def _comparison(runs: Sequence[Described], protocol: Protocol) -> list[str]:
    of = "images, since patients were not known," if protocol.patients is None else "whole patients"
    drawn = f"{protocol.draws} bootstrap draws of {of} (seed {protocol.seed})"
    found = [f"Intervals (95 %) are percentiles of {drawn} [@davison1997]."]
    if protocol.paired and len(runs) > 1:
        found.append(
            "Differences are paired: all runs see the same draws. For each metric and class the intervals of all pairs "
            "of runs hold simultaneously [@mandel2008]; pairs whose interval includes 0, or "
            "that differ by less than 0.0005, are reported as ties, shown by "
            "shared letters [@piepho2004]. P values are two-sided bootstrap values with Holm's correction [@holm1979]. "
            "Nothing was corrected across metrics or classes."
        )
    if protocol.repeated:
        found.append(
            "Repeatability (other seeds) and reproducibility (other architectures) of the maps [@arun2021] were "
            "measured by the Dice coefficient between the masks of two runs, and by the correlation of their scores "
            "and of their Dice coefficients."
        )
    return found


def _software(own: Sequence[Described], protocol: Protocol) -> list[str]:
    tools = "with PyTorch [@paszke2019pytorch] and timm [@wightman2019timm]" if own else ""
    return [f"All computations used lesioncam {protocol.version} {tools}".rstrip() + "."]


# ---- what differs is said run by run ------------------------------------------------------------------------------


def _each(runs: Sequence[Described], sentence: str, say: Callable[[Described], str]) -> str:
    """One sentence where all runs agree, otherwise one that names the runs; nothing where there is nothing to say."""
    said: dict[str, list[str]] = {}
    for run in runs:
        if words := say(run):
            said.setdefault(words, []).append(run.name)
    if not said:
        return ""
    if len(said) == 1 and len(next(iter(said.values()))) == len(runs):
        return sentence.format(next(iter(said)))
    return sentence.format("; ".join(f"{words} ({_listed(names)})" for words, names in said.items()))


def _pooling(run: Described) -> str:
    kind = str(run.config.get("pooling.kind", ""))
    options = {key.removeprefix("pooling."): value for key, value in run.config.items() if key.startswith("pooling.")}
    defaults = {"sharpness": "not recorded", "fraction": "not recorded", "temperature": "not recorded", "name": "own"}
    options["gate"] = "gated" if options.get("gated", True) else "ungated"
    options["share"] = "one for all classes" if options.get("shared") else "one for each class"
    entry = POOLING_KINDS.get(kind)
    if entry is None:
        return ""
    return entry.words.format(**{**defaults, **options, "cite": f"[@{entry.reference}]"})


def _backbone(run: Described) -> str:
    name = str(run.config.get("backbone.name", ""))
    if not name:
        return ""
    bare = name.removeprefix("monai:")
    home = "wightman2019timm" if bare == name else "cardoso2022monai"
    cite = next((key for heads, key in FAMILIES if bare.startswith(heads)), home)
    shown = "the first three stages of a narrow ResNet-10" if name == "slim" else bare
    stride = run.config.get("backbone.stride", "?")
    if bare == name:
        return f"{shown} [@{cite}] with one cell per {stride} input pixels"
    source = "" if cite == home else f" of MONAI [@{home}]"
    return f"the 3D {shown} [@{cite}]{source} with one cell per {stride} input voxels along each axis"


def _start(run: Described) -> str:
    weights = run.config.get("weights")
    if weights is None:
        return ""
    kinds = {"none": "at random", "hub": "with timm's pretrained weights"}
    return kinds.get(str(weights), "with weights of the authors' own")


def _budget(run: Described) -> str:
    config = run.config
    stop = f", ended after {config['patience']} without a better one" if config.get("patience") else ""
    size = config.get("preprocess.size")
    volumes = str(config.get("backbone.name", "")).startswith("monai:")
    sides = list(size) if isinstance(size, list | tuple) else [size] * (3 if volumes else 2)
    inputs = f" of {' x '.join(map(str, sides))} {'voxels' if volumes else 'pixels'}" if size else ""
    return (
        f"at most {config['epochs']} epochs{stop}, with batches of {config.get('batch', '?')} images{inputs} and a "
        f"highest learning rate of {config.get('learning_rate', '?')}"
    )


MAP_METHODS = {
    "gradcam": "Grad-CAM [@selvaraju2017gradcam]",
    "gradcam_pp": "Grad-CAM++ [@chattopadhay2018gradcampp]",
    "hirescam": "HiResCAM [@draelos2020hirescam]",
    "xgradcam": "XGrad-CAM [@fu2020xgradcam]",
    "layercam": "LayerCAM [@jiang2021layercam]",
    "eigencam": "Eigen-CAM [@muhammad2020eigencam]",
    "scorecam": "Score-CAM [@wang2020scorecam]",
    "occlusion": "occlusion [@zeiler2014occlusion]",
    "rise": "RISE [@petsiuk2018rise]",
    "integrated_gradients": "integrated gradients [@sundararajan2017ig]",
    "smoothgrad": "SmoothGrad [@smilkov2017smoothgrad]",
    "clear": "CLEAR responses [@kumar2017clear]",
}


def _map(run: Described) -> str:
    method = run.summary.method
    if method in MAP_METHODS:
        return (
            f"{MAP_METHODS[method]}, resized linearly to the image and put on one scale per class fitted on validation"
        )
    if method != "cam":
        return ""
    if run.config.get("pooling.kind") == "acam":
        return _attentional(str(run.config.get("pooling.combine", "not recorded")))
    seen = "that the pooling itself sees, " if run.config.get("pooling.kind") else "of its head, "
    return (
        f"the class activation maps [@zhou2016cam] {seen}resized linearly to the image and then put through the "
        "sigmoid, on one absolute scale for all images"
    )


def _attentional(combine: str) -> str:
    way = {"mean": "mean", "product": "product", "geomean": "geometric mean", "min": "minimum"}.get(combine, combine)
    end = "put through the sigmoid" if combine == "mean" else "put on one scale per class fitted on validation"
    return (
        f"the class activation maps multiplied by the {way} of the attentions along the axes [@wu2019acam], resized "
        f"linearly to the image and then {end}"
    )


def _thresholds(run: Described) -> str:
    sources = {threshold.source for threshold in run.summary.thresholds.values()}
    words = {
        "val": "at the threshold of each class with the highest mean Dice coefficient on validation masks",
        "default": "at a probability of 0.5",
        "given": "at a threshold set in advance",
    }
    return _listed([words[source] for source in sorted(sources) if source in words])


def _rule(run: Described) -> str:
    name, _, value = run.summary.calibration.rule.partition("=")
    return RULES.get(name, "").format(value)


def _calibration(run: Described, part: Literal["images", "maps"]) -> str:
    kinds = run.summary.calibration
    return CALIBRATIONS.get(kinds.images if part == "images" else kinds.maps, "")


def _listed(names: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *first, last = list(names) or [""]
    return f"{', '.join(first)} and {last}" if first else last


# ---- references --------------------------------------------------------------------------------------------------


@cache
def _references() -> dict[str, str]:
    """The entries of ``references.bib`` by key: blank lines lie between entries and nowhere else."""
    text = files("lesioncam").joinpath("reporting/words/references.bib").read_text(encoding="utf-8")
    return {entry[entry.index("{") + 1 : entry.index(",")]: entry for entry in text.strip().split("\n\n")}
