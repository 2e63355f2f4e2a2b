"""Rows of a published data set: from a local copy in the published layout, else from the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gitmerge_eval.errors import EvaluationError

FOLDER_VARIABLE = "GITMERGE_EVAL_CROSS_LINGUAL"
"""Names the folder with the local copies, whatever a repository's ``benchmark.toml`` says."""
Row = Mapping[str, Any]
WIC_COLUMNS = (
    "word", "part_of_speech", "start1", "end1", "start2", "end2", "sentence1", "sentence2",
)  # fmt: skip


def rows(
    folder: Path | None, declared: Mapping[str, Any], language: str, split: str
) -> Sequence[Row]:
    """The rows of a published split of the data set that a recipe's section declares.

    ``name`` is its name on the hub, ``configuration`` that of a language there and ``files`` a
    pattern of its files; both may contain {language}, whose spelling ``languages`` has. The local
    copy is in ``folder``, under the last part of the name. Raises EvaluationError with what to get
    where there is neither.
    """
    import datasets

    name = str(declared["name"])
    spelled = str(declared.get("languages", {}).get(language, language))
    local = (folder or Path("DATA")) / name.split("/")[-1]
    pattern = str(declared["files"]).format(language=spelled, split=split)
    files = sorted(str(file) for file in local.glob(pattern)) if folder else []
    if files:
        found: Sequence[Row] = datasets.load_dataset("parquet", data_files=files, split="train")
        return found
    wanted = (
        f"get it with 'hf download --repo-type dataset {name} --local-dir {local}' and name the "
        f"folder above by the setting 'data' in benchmark.toml or by {FOLDER_VARIABLE}"
    )
    if local.is_dir():
        raise EvaluationError(f"'{local}' has no files '{pattern}' of '{name}'; {wanted}")
    configuration = str(declared["configuration"]).format(language=spelled)
    try:
        fetched: Sequence[Row] = datasets.load_dataset(name, configuration, split=split)
    except Exception as error:  # whatever a connection, a cache or the hub may come up with
        raise EvaluationError(
            f"the data set '{name}' is not here, and the hub did not give it "
            f"({type(error).__name__}); {wanted}"
        ) from error
    return fetched


def wic_rows(folder: Path | None, language: str, split: str) -> Sequence[Row]:
    """The rows of XL-WiC, whose archive has tab-separated files; () where a split has no file.

    Columns: WIC_COLUMNS and ``label``. Raises EvaluationError where the archive is not there.
    """
    import datasets

    if folder is None or not (folder / "xlwic_datasets").is_dir():
        raise EvaluationError(
            "XL-WiC is not here: unpack xlwic_datasets.zip from its page, "
            "pilehvar.github.io/xlwic, into the folder that the setting 'data' in benchmark.toml "
            f"or {FOLDER_VARIABLE} names"
        )
    root = folder / "xlwic_datasets"
    place = {"de": "xlwic_wikt/german_de", "ko": "xlwic_wn/korean_ko"}.get(language)
    if place is None:
        data, gold = root / "wic_english" / f"{split}_{language}.txt", None
    elif split == "test":
        data = root / place / f"{language}_test_data.txt"
        gold = root / place / f"{language}_test_gold.txt"
    else:
        data, gold = root / place / f"{language}_{split}.txt", None
    if not data.is_file():
        return ()

    def table(file: Path, columns: Sequence[str]) -> Sequence[Row]:
        # quoting=3: sentences have single quotation marks, which mean nothing there
        read: Sequence[Row] = datasets.load_dataset(
            "csv", data_files=str(file), split="train", sep="\t", quoting=3, header=None,
            names=list(columns), keep_default_na=False,
        )  # fmt: skip
        return read

    if gold is None:
        return table(data, (*WIC_COLUMNS, "label"))
    return [
        {**row, **answer}
        for row, answer in zip(table(data, WIC_COLUMNS), table(gold, ("label",)), strict=True)
    ]


def share(seed: int, identity: str) -> float:
    """A number in [0, 1) that depends on the seed and the text alone: it splits a data set."""
    digest = hashlib.sha256(f"{seed}:{identity}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
