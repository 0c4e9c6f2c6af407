"""The verbs of the command line, for whatever must know them without knowing how they are run."""

from __future__ import annotations

VERBS = {
    "demo": "see it work: phantom, three minutes, no data, no network",
    "index": "make a table: a folder (one sub-folder a class), or a known public set by name",
    "check": "what a table is, how it will be read, what is wrong with it; leaks and near-duplicates",
    "split": "split a table by patient and near-duplicates, stratified: fractions, folds, by date, by site",
    "run": "check, train, evaluate on val, report",
    "train": "train only",
    "sweep": "many runs on equal terms: any options varied, seeds, folds; test stays closed",
    "calibrate": "choose scales, operating points and thresholds of a run anew, on val",
    "evaluate": "measure a run, or another tool's maps, on val or test (counted), and write the report",
    "compare": "several runs side by side: paired, corrected, ties as ties",
    "report": "rebuild the report from the run folder; --share for a version to give away",
    "predict": "maps, boxes, masks and crops of new images, by any map method; several runs are an ensemble",
    "figures": "pictures of CLEAR for a paper: which class, how strongly, at each pixel; right and wrong cases",
    "info": "what there is to choose from: poolings, map methods, metrics, sources, recipes, options; --json",
    "adopt": "take in a network of your own: self-test, thresholds and calibration on val",
}
"""Every verb, in the order of use."""
