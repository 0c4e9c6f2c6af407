"""A methods paragraph and its references: exactly what was used, nothing that was not; facts, for the authors to edit.

References are cited as ``[@key]``, which pandoc turns into LaTeX, Word or HTML; the keys are those of the BibTeX file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from lesioncam.evaluation.metric import METRICS
from lesioncam.options.poolings import POOLING_KINDS
from lesioncam.runs.summary import Summary

__all__ = ["Described", "Protocol", "bibliography", "methods_text"]


class Described(NamedTuple):
    """What a paragraph says about one run.

    Attributes:
        name: how the run is called.
        config: the options, flat: ``backbone.name`` and the like; empty for another tool's maps.
        summary: of the evaluation.
        foreign: maps of another tool.
    """

    name: str
    config: Mapping[str, Any]
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
        KeyError: for a key that is not known, which is a mistake in this module.

    Example:
        >>> bibliography("Dice [@dice1945].").splitlines()[0]
        '@article{dice1945,'
    """
    keys = sorted(set(re.findall(r"@([A-Za-z0-9_]+)", text)))
    return "\n\n".join(_entry(key, REFERENCES[key]) for key in keys) + "\n" * bool(keys)


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


def _each(runs: Sequence[Described], sentence: str, say: Any) -> str:
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


def _entry(key: str, fields: Mapping[str, str]) -> str:
    body = [f"  {name} = {{{value}}}" for name, value in fields.items() if name != "type"]
    return f"@{fields['type']}{{{key},\n" + ",\n".join(body) + "\n}"


def _paper(author: str, title: str, where: str, year: int, **more: str) -> dict[str, str]:
    return {"type": "article", "author": author, "title": title, "journal": where, "year": str(year), **more}


def _talk(author: str, title: str, where: str, year: int, **more: str) -> dict[str, str]:
    return {"type": "inproceedings", "author": author, "title": title, "booktitle": where, "year": str(year), **more}


CVPR = "IEEE Conference on Computer Vision and Pattern Recognition (CVPR)"
ICLR = "International Conference on Learning Representations (ICLR)"
REFERENCES: dict[str, dict[str, str]] = {
    "zhou2016cam": _talk(
        "Zhou, Bolei and Khosla, Aditya and Lapedriza, Agata and Oliva, Aude and Torralba, Antonio",
        "Learning Deep Features for Discriminative Localization", CVPR, 2016, pages="2921--2929"),
    "selvaraju2017gradcam": _talk(
        "Selvaraju, Ramprasaath R. and Cogswell, Michael and Das, Abhishek and Vedantam, Ramakrishna and "
        "Parikh, Devi and Batra, Dhruv",
        "{Grad-CAM}: Visual Explanations from Deep Networks via Gradient-Based Localization",
        "IEEE International Conference on Computer Vision (ICCV)", 2017, pages="618--626"),
    "chattopadhay2018gradcampp": _talk(
        "Chattopadhay, Aditya and Sarkar, Anirban and Howlader, Prantik and Balasubramanian, Vineeth N.",
        "{Grad-CAM++}: Generalized Gradient-Based Visual Explanations for Deep Convolutional Networks",
        "IEEE Winter Conference on Applications of Computer Vision (WACV)", 2018, pages="839--847"),
    "draelos2020hirescam": _paper(
        "Draelos, Rachel Lea and Carin, Lawrence",
        "Use {HiResCAM} instead of {Grad-CAM} for faithful explanations of convolutional neural networks",
        "arXiv preprint arXiv:2011.08891", 2020),
    "fu2020xgradcam": _talk(
        "Fu, Ruigang and Hu, Qingyong and Dong, Xiaohu and Guo, Yulan and Gao, Yinghui and Li, Biao",
        "Axiom-based {Grad-CAM}: Towards Accurate Visualization and Explanation of {CNNs}",
        "British Machine Vision Conference (BMVC)", 2020),
    "jiang2021layercam": _paper(
        "Jiang, Peng-Tao and Zhang, Chang-Bin and Hou, Qibin and Cheng, Ming-Ming and Wei, Yunchao",
        "{LayerCAM}: Exploring Hierarchical Class Activation Maps for Localization",
        "IEEE Transactions on Image Processing", 2021, volume="30", pages="5875--5888"),
    "muhammad2020eigencam": _talk(
        "Muhammad, Mohammed Bany and Yeasin, Mohammed",
        "{Eigen-CAM}: Class Activation Map using Principal Components",
        "International Joint Conference on Neural Networks (IJCNN)", 2020),
    "wang2020scorecam": _talk(
        "Wang, Haofan and Wang, Zifan and Du, Mengnan and Yang, Fan and Zhang, Zijian and Ding, Sirui and "
        "Mardziel, Piotr and Hu, Xia",
        "{Score-CAM}: Score-Weighted Visual Explanations for Convolutional Neural Networks",
        "IEEE/CVF Conference on Computer Vision and Pattern Recognition Workshops", 2020),
    "zeiler2014occlusion": _talk(
        "Zeiler, Matthew D. and Fergus, Rob", "Visualizing and Understanding Convolutional Networks",
        "European Conference on Computer Vision (ECCV)", 2014, pages="818--833"),
    "petsiuk2018rise": _talk(
        "Petsiuk, Vitali and Das, Abir and Saenko, Kate",
        "{RISE}: Randomized Input Sampling for Explanation of Black-box Models",
        "British Machine Vision Conference (BMVC)", 2018),
    "sundararajan2017ig": _talk(
        "Sundararajan, Mukund and Taly, Ankur and Yan, Qiqi", "Axiomatic Attribution for Deep Networks",
        "International Conference on Machine Learning (ICML)", 2017, pages="3319--3328"),
    "smilkov2017smoothgrad": _paper(
        "Smilkov, Daniel and Thorat, Nikhil and Kim, Been and Vi{\\'e}gas, Fernanda and Wattenberg, Martin",
        "{SmoothGrad}: removing noise by adding noise", "arXiv preprint arXiv:1706.03825", 2017),
    "kumar2017clear": _talk(
        "Kumar, Devinder and Wong, Alexander and Taylor, Graham W.",
        "Explaining the Unexplained: A {CLass-Enhanced Attentive Response (CLEAR)} Approach to Understanding Deep "
        "Neural Networks", "IEEE Conference on Computer Vision and Pattern Recognition Workshops", 2017),
    "oquab2015free": _talk(
        "Oquab, Maxime and Bottou, L{\\'e}on and Laptev, Ivan and Sivic, Josef",
        "Is Object Localization for Free? Weakly-Supervised Learning with Convolutional Neural Networks", CVPR, 2015,
        pages="685--694"),
    "pinheiro2015lse": _talk(
        "Pinheiro, Pedro O. and Collobert, Ronan",
        "From Image-level to Pixel-level Labeling with Convolutional Networks", CVPR, 2015, pages="1713--1721"),
    "shen2021gmic": _paper(
        "Shen, Yiqiu and Wu, Nan and Phang, Jason and Park, Jungkyu and Liu, Kangning and Tyagi, Sudarshini and "
        "Heacock, Laura and Kim, S. Gene and Moy, Linda and Cho, Kyunghyun and Geras, Krzysztof J.",
        "An interpretable classifier for high-resolution breast cancer screening images utilizing weakly supervised "
        "localization", "Medical Image Analysis", 2021, volume="68", pages="101908"),
    "ye2020pcam": _paper(
        "Ye, Wenwu and Yao, Jin and Xue, Hui and Li, Yi",
        "Weakly Supervised Lesion Localization With Probabilistic-{CAM} Pooling", "arXiv preprint arXiv:2005.14480",
        2020),
    "wang2019mil": _talk(
        "Wang, Yun and Li, Juncheng and Metze, Florian",
        "A Comparison of Five Multiple Instance Learning Pooling Functions for Sound Event Detection with Weak "
        "Labeling", "IEEE International Conference on Acoustics, Speech and Signal Processing (ICASSP)", 2019,
        pages="31--35"),
    "maron1998mil": _talk(
        "Maron, Oded and Lozano-P{\\'e}rez, Tom{\\'a}s", "A Framework for Multiple-Instance Learning",
        "Advances in Neural Information Processing Systems 10", 1998, pages="570--576"),
    "ilse2018attention": _talk(
        "Ilse, Maximilian and Tomczak, Jakub M. and Welling, Max", "Attention-based Deep Multiple Instance Learning",
        "International Conference on Machine Learning (ICML)", 2018, pages="2127--2136"),
    "wu2019acam": _talk(
        "Wu, Kai and Du, Bowen and Luo, Man and Wen, Hongkai and Shen, Yiran and Feng, Jianfeng",
        "Weakly Supervised Brain Lesion Segmentation via Attentional Representation Learning",
        "Medical Image Computing and Computer Assisted Intervention (MICCAI)", 2019,
        doi="10.1007/978-3-030-32248-9_24"),
    "he2016resnet": _talk(
        "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian",
        "Deep Residual Learning for Image Recognition", CVPR, 2016, pages="770--778"),
    "huang2017densenet": _talk(
        "Huang, Gao and Liu, Zhuang and van der Maaten, Laurens and Weinberger, Kilian Q.",
        "Densely Connected Convolutional Networks", CVPR, 2017, pages="4700--4708"),
    "tan2019efficientnet": _talk(
        "Tan, Mingxing and Le, Quoc V.",
        "{EfficientNet}: Rethinking Model Scaling for Convolutional Neural Networks",
        "International Conference on Machine Learning (ICML)", 2019, pages="6105--6114"),
    "liu2022convnext": _talk(
        "Liu, Zhuang and Mao, Hanzi and Wu, Chao-Yuan and Feichtenhofer, Christoph and Darrell, Trevor and "
        "Xie, Saining",
        "A {ConvNet} for the 2020s", CVPR, 2022, pages="11976--11986"),
    "liu2021swin": _talk(
        "Liu, Ze and Lin, Yutong and Cao, Yue and Hu, Han and Wei, Yixuan and Zhang, Zheng and Lin, Stephen and "
        "Guo, Baining", "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
        "IEEE International Conference on Computer Vision (ICCV)", 2021, pages="10012--10022"),
    "dosovitskiy2021vit": _talk(
        "Dosovitskiy, Alexey and Beyer, Lucas and Kolesnikov, Alexander and Weissenborn, Dirk and Zhai, Xiaohua and "
        "Unterthiner, Thomas and Dehghani, Mostafa and Minderer, Matthias and Heigold, Georg and Gelly, Sylvain and "
        "Uszkoreit, Jakob and Houlsby, Neil",
        "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", ICLR, 2021),
    "howard2019mobilenetv3": _talk(
        "Howard, Andrew and Sandler, Mark and Chu, Grace and Chen, Liang-Chieh and Chen, Bo and Tan, Mingxing and "
        "Wang, Weijun and Zhu, Yukun and Pang, Ruoming and Vasudevan, Vijay and Le, Quoc V. and Adam, Hartwig",
        "Searching for {MobileNetV3}", "IEEE International Conference on Computer Vision (ICCV)", 2019,
        pages="1314--1324"),
    "lin2017focal": _talk(
        "Lin, Tsung-Yi and Goyal, Priya and Girshick, Ross and He, Kaiming and Doll{\\'a}r, Piotr",
        "Focal Loss for Dense Object Detection", "IEEE International Conference on Computer Vision (ICCV)", 2017),
    "cui2019balanced": _talk(
        "Cui, Yin and Jia, Menglin and Lin, Tsung-Yi and Song, Yang and Belongie, Serge",
        "Class-Balanced Loss Based on Effective Number of Samples", CVPR, 2019),
    "eban2017nondecomposable": _talk(
        "Eban, Elad and Schain, Mariano and Mackey, Alan and Gordon, Ariel and Rifkin, Ryan and Elidan, Gal",
        "Scalable Learning of Non-Decomposable Objectives",
        "International Conference on Artificial Intelligence and Statistics (AISTATS)", 2017),
    "kingma2015adam": _talk(
        "Kingma, Diederik P. and Ba, Jimmy", "Adam: A Method for Stochastic Optimization", ICLR, 2015),
    "loshchilov2017sgdr": _talk(
        "Loshchilov, Ilya and Hutter, Frank", "{SGDR}: Stochastic Gradient Descent with Warm Restarts", ICLR, 2017),
    "cohen1968kappa": _paper(
        "Cohen, Jacob",
        "Weighted Kappa: Nominal Scale Agreement with Provision for Scaled Disagreement or Partial Credit",
        "Psychological Bulletin", 1968, volume="70", number="4", pages="213--220"),
    "loshchilov2019adamw": _talk(
        "Loshchilov, Ilya and Hutter, Frank", "Decoupled Weight Decay Regularization", ICLR, 2019),
    "smith2019onecycle": _talk(
        "Smith, Leslie N. and Topin, Nicholay",
        "Super-convergence: Very Fast Training of Neural Networks Using Large Learning Rates",
        "Artificial Intelligence and Machine Learning for Multi-Domain Operations Applications, Proc. SPIE 11006",
        2019),
    "guo2017calibration": _talk(
        "Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.",
        "On Calibration of Modern Neural Networks", "International Conference on Machine Learning (ICML)", 2017,
        pages="1321--1330"),
    "platt1999": _talk(
        "Platt, John C.",
        "Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood Methods",
        "Advances in Large Margin Classifiers", 1999, publisher="MIT Press", pages="61--74"),
    "zadrozny2002": _talk(
        "Zadrozny, Bianca and Elkan, Charles",
        "Transforming Classifier Scores into Accurate Multiclass Probability Estimates",
        "ACM SIGKDD International Conference on Knowledge Discovery and Data Mining", 2002, pages="694--699"),
    "youden1950": _paper(
        "Youden, W. J.", "Index for Rating Diagnostic Tests", "Cancer", 1950, volume="3", number="1", pages="32--35"),
    "hanley1982": _paper(
        "Hanley, James A. and McNeil, Barbara J.",
        "The Meaning and Use of the Area under a Receiver Operating Characteristic ({ROC}) Curve", "Radiology", 1982,
        volume="143", number="1", pages="29--36"),
    "davis2006": _talk(
        "Davis, Jesse and Goadrich, Mark", "The Relationship between Precision-Recall and {ROC} Curves",
        "International Conference on Machine Learning (ICML)", 2006, pages="233--240"),
    "brodersen2010": _talk(
        "Brodersen, Kay H. and Ong, Cheng Soon and Stephan, Klaas E. and Buhmann, Joachim M.",
        "The Balanced Accuracy and Its Posterior Distribution",
        "International Conference on Pattern Recognition (ICPR)", 2010, pages="3121--3124"),
    "dice1945": _paper(
        "Dice, Lee R.", "Measures of the Amount of Ecologic Association Between Species", "Ecology", 1945, volume="26",
        number="3", pages="297--302"),
    "jaccard1912": _paper(
        "Jaccard, Paul", "The Distribution of the Flora in the Alpine Zone", "New Phytologist", 1912, volume="11",
        number="2", pages="37--50"),
    "zhang2018excitation": _paper(
        "Zhang, Jianming and Bargal, Sarah Adel and Lin, Zhe and Brandt, Jonathan and Shen, Xiaohui and "
        "Sclaroff, Stan", "Top-Down Neural Attention by Excitation Backprop",
        "International Journal of Computer Vision", 2018, volume="126", number="10", pages="1084--1102"),
    "davison1997": {
        "type": "book", "author": "Davison, A. C. and Hinkley, D. V.",
        "title": "Bootstrap Methods and their Application", "publisher": "Cambridge University Press", "year": "1997"},
    "mandel2008": _paper(
        "Mandel, Micha and Betensky, Rebecca A.",
        "Simultaneous Confidence Intervals Based on the Percentile Bootstrap Approach",
        "Computational Statistics \\& Data Analysis", 2008, volume="52", number="4", pages="2158--2165",
        doi="10.1016/j.csda.2007.07.005"),
    "piepho2004": _paper(
        "Piepho, Hans-Peter", "An Algorithm for a Letter-Based Representation of All-Pairwise Comparisons",
        "Journal of Computational and Graphical Statistics", 2004, volume="13", number="2", pages="456--466"),
    "holm1979": _paper(
        "Holm, Sture", "A Simple Sequentially Rejective Multiple Test Procedure", "Scandinavian Journal of Statistics",
        1979, volume="6", number="2", pages="65--70"),
    "arun2021": _paper(
        "Arun, Nishanth and Gaw, Nathan and Singh, Praveer and Chang, Ken and Aggarwal, Mehak and Chen, Bryan and "
        "Hoebel, Katharina and Gupta, Sharut and Patel, Jay and Gidwani, Mishka and Adebayo, Julius and Li, Matthew D. "
        "and Kalpathy-Cramer, Jayashree",
        "Assessing the Trustworthiness of Saliency Maps for Localizing Abnormalities in Medical Imaging",
        "Radiology: Artificial Intelligence", 2021, volume="3", number="6", pages="e200267",
        doi="10.1148/ryai.2021200267"),
    "paszke2019pytorch": _talk(
        "Paszke, Adam and Gross, Sam and Massa, Francisco and Lerer, Adam and Bradbury, James and Chanan, Gregory and "
        "others", "{PyTorch}: An Imperative Style, High-Performance Deep Learning Library",
        "Advances in Neural Information Processing Systems 32", 2019),
    "cardoso2022monai": {
        "type": "misc", "author": "Cardoso, M. Jorge and Li, Wenqi and Brown, Richard and others",
        "title": "{MONAI}: An open-source framework for deep learning in healthcare", "year": "2022",
        "doi": "10.48550/arXiv.2211.02701"},
    "wightman2019timm": {
        "type": "misc", "author": "Wightman, Ross", "title": "{PyTorch} Image Models", "year": "2019",
        "doi": "10.5281/zenodo.4414861", "howpublished": "https://github.com/huggingface/pytorch-image-models"},
}  # fmt: skip
"""Every reference a paragraph can cite."""
