"""The paper's own numbers (Sharma et al., 2021, Tables 1-4), to stand beside ours. Nothing here was measured by us."""

from __future__ import annotations

from dataclasses import dataclass

from .data import SALIENCY

Pair = tuple[float, float] | None  # F_beta, MAE; None where the paper has a dash


@dataclass(frozen=True)
class QuotedTable:
    """A table of the paper. rows: by method, as many cells as columns, None for a dash."""

    number: int
    title: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[float | None, ...]]
    notes: tuple[str, ...] = ()


PAIRS = tuple(f"{name} {score}" for name in SALIENCY for score in ("F_beta", "MAE"))
_ = None

TABLE_1 = QuotedTable(
    1,
    "low-fidelity training on MSRA-B, the labels of each region wrong with probability 0.5",
    PAIRS,
    {
        "PFAN": (.580, .502, .532, .512, .588, .510, .611, .493, .565, .518, .541, .513, .537, .511),
        "BAS-Net": (.585, .619, .444, .682, .572, .619, .655, .623, .527, .637, .431, .660, .442, .686),
        "PoolNet": (.603, .502, .566, .501, .597, .503, .648, .480, .582, .503, .517, .505, .526, .498),
        "ResNet-CE": (.691, .140, .427, .191, .625, .178, .592, .206, .633, .160, .670, .150, .666, .147),
        "ResNet-CACE": (.872, .076, .808, .103, .803, .114, .754, .150, .822, .094, .834, .108, .816, .095),
        "ResNet-CAS": (.920, .038, .836, .077, .837, .085, .773, .126, .856, .067, .865, .080, .846, .069),
        "DeepLab-CAS": (.937, .038, .868, .064, .875, .068, .810, .110, .896, .050, .893, .070, .871, .058),
    },
    ("DeepLab-CAS is better on MSRA-B with half of the labels wrong (.937) than with all right (.931, Table 2).",),
)  # fmt: skip

TABLE_2 = QuotedTable(
    2,
    "high-fidelity training",
    PAIRS,
    {
        "BAS-Net": (_, _, .860, .047, .942, .037, .854, .076, .921, .039, _, _, .805, .056),
        "PoolNet": (_, _, .892, .036, .945, .038, .880, .065, .935, .030, _, _, .833, .053),
        "CPSNet": (_, _, _, _, .878, .096, .790, .134, _, _, _, _, .718, .114),
        "PFAN": (_, _, .870, .040, .931, .032, .892, .067, .926, .032, _, _, .855, .041),
        "HED": (.927, .028, _, _, .915, .052, .830, .080, .913, .039, _, _, .764, .070),
        "DNA": (_, _, .873, .040, .938, .040, _, _, .934, .029, .796, .068, .805, .056),
        "GateNet": (_, _, .898, .035, .952, .035, .888, .065, .943, .029, _, _, .829, .051),
        "LDF": (_, _, .910, .034, .930, .034, .848, .060, .914, .027, .764, .064, .773, .051),
        "Pang et al.": (_, _, .825, .037, .911, .033, .821, .064, .899, .028, _, _, .738, .055),
        "ITSD": (_, _, .883, .041, .947, .035, .871, .071, .934, .031, _, _, .824, .061),
        "Discriminative": (.905, .052, .829, .082, .829, .093, .756, .134, .840, .077, .846, .086, .834, .072),
        "ResNet-CAS": (.985, .010, .871, .071, .888, .071, .840, .112, .939, .050, .931, .073, .876, .066),
        "ResNet-CE": (.958, .030, .919, .055, .905, .068, .876, .091, .928, .044, .935, .057, .920, .059),
        "DeepLab-CAS": (.931, .040, .850, .070, .864, .072, .800, .111, .882, .054, .888, .069, .865, .060),
        "DeepLab-CE": (.928, .039, .847, .070, .867, .069, .805, .110, .880, .052, .881, .070, .856, .061),
    },
    (
        "The ResNet rows pick, column by column, among networks trained on MSRA-B, on DUTS, or with cross entropy first.",
        "The paper does not say how the discriminative loss gives a saliency map.",
    ),
)  # fmt: skip

TABLE_3 = QuotedTable(
    3,
    "PASCAL VOC 2012, number of regions unknown",
    ("average precision",),
    {"Discriminative": (.61,), "Magnet": (.12,), "Triplet": (.61,), "CAS": (.71,)},
    ("The paper does not define its average precision.",),
)  # fmt: skip

TABLE_4 = QuotedTable(
    4,
    "real-world textures",
    tuple(
        f"{score} {kind}"
        for score in ("contour F", "GT covering", "Rand index", "variation of information")
        for kind in ("ODS", "OIS")
    ),
    {
        "FCN-ResNet101-a-CE": (.04, .04, .79, .79, .55, .55, 1.39, 1.39),
        "FCN-ResNet101-a-CAS": (.48, .48, .87, .87, .87, .87, .50, .50),
        "FCN-ResNet101-t-CAS": (.17, .17, .83, .83, .66, .66, .94, .94),
        "DeepLab-d-CE": (.18, .18, .82, .82, .67, .67, 1.35, 1.35),
        "DeepLab-d-CAS": (.07, .07, .73, .73, .54, .54, 1.64, 1.64),
    },
    (
        "-a-: trained on the seven saliency sets; -t-: on textures; -d-: on DUTS-TR.",
        "DeepLab-CE beats DeepLab-CAS in all four scores. ODS and OIS are equal everywhere.",
    ),
)  # fmt: skip

TABLES = (TABLE_1, TABLE_2, TABLE_3, TABLE_4)


def cell(table: QuotedTable, row: str, column: str) -> float | None:
    """One number of the paper."""
    return table.rows[row][table.columns.index(column)]


def number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}".replace("0.", ".", 1) if value < 1 else f"{value:.{digits}f}"


def saliency_cell(table: QuotedTable, row: str, name: str = SALIENCY[0]) -> str:
    """F_beta / MAE as the paper has them."""
    return " / ".join(number(cell(table, row, f"{name} {score}"), 3) for score in ("F_beta", "MAE"))


def as_text(table: QuotedTable) -> str:
    """The table in Markdown, with its number and notes."""
    pairs = table.columns == PAIRS
    columns = SALIENCY if pairs else table.columns
    digits = 3 if pairs else 2
    lines = [
        f"Table {table.number} of Sharma et al. (2021): {table.title}" + (" (F_beta / MAE)" if pairs else ""),
        "",
        f"| method | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row, values in table.rows.items():
        cells = [saliency_cell(table, row, name) for name in SALIENCY] if pairs else [number(v, digits) for v in values]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join([*lines, *(["", *table.notes] if table.notes else [])]) + "\n"
