"""What a results file says, in Markdown: the table, the words that explain it, and where the figures come from."""

from __future__ import annotations

from pathlib import Path

from . import report
from .report import OURS, TARGETS, Group, missed, ratio

LAYOUTS = {"nchw": "contiguous (`nchw`)"}
HEADER = "| case | input | regions | forward | backward | share of bandwidth | compiled | eager | error | misses |"
# Commit of a results file -> what changed in the kernels after it. Written by hand, with the change: git is not asked, so that
# the pages change by a commit to them only.
CHANGED_SINCE = {
    "8dbf2bf6c2": "The CPU kernels changed since, most for short runs of labels, scattered labels, few channels and interleaved "
    "pixels: `git log 8dbf2bf6c2..HEAD -- csrc/cpu`.",
    "aa8846b0e2": "The CPU kernels changed since in details: `git log aa8846b0e2..HEAD -- csrc/cpu`.",
}


def legend(device_type: str) -> str:
    """What the words of a table mean."""
    targets = TARGETS[device_type]
    rivals = " or ".join({"compiled": "compiled PyTorch", "triton": "Triton"}[kind] for kind in targets.rivals)
    eager = f"eager `{targets.eager_impl}`" if targets.eager_impl else "the fastest eager PyTorch"
    words = {
        "coherent": "a mask of few long borders, as segmentations have; *random*: the label of every pixel drawn on its own.",
        "forward**, **backward": "the median time of one call.",
        "share of bandwidth": "how long PyTorch's own read (forward) or copy (backward) takes for the bytes that any "
        "implementation must move, over the time of the pass. Above 100% a pass is faster than that read or copy, which do not "
        "reach all that the memory can do. On a CPU they are timed beside each row.",
        "compiled**, **eager": "how many times as fast cas_ext is as the fastest of several versions in PyTorch, with "
        "`torch.compile` and without; forward and backward together.",
        "error": "the relative error of the loss, or of the gradient if that is larger, against float64.",
        "misses": f"the targets that a row misses. They are {targets.share:.0%} of the bandwidth "
        f"({targets.adversarial_share:.0%} with random labels and the like), {targets.compiled} times as fast as {rivals}, "
        f"{targets.eager} times as {eager}; behind a softmax, {targets.unfused} times as a softmax followed by cas_ext "
        "(*unfused*).",
        "at full bandwidth": "the same of a kernel that moves no byte twice, at the speed of that read and copy.",
    }
    return "".join(f"- **{word}**: {meaning}\n" for word, meaning in words.items())


def span(values: list[float], form: str) -> str:
    """Least to most."""
    if not values:
        return "-"
    ends = [form.format(end(values)) for end in (min, max)]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def on(result: dict) -> str:
    threads = f", {result['threads']} thread{'s' * (result['threads'] != 1)}" if result["threads"] else ""
    return f"{result['device']}{threads}"


def commit(result: dict) -> str:
    return (result["commit"] or "unknown")[:10]


def described(result: dict) -> str:
    """Which machine, how fast its memory is, and the command."""
    scaled = "" if result["scale"] == "full" else "; sizes scaled down for this machine"
    scaled += "; inputs are logits, with the softmax in front of the loss" * (result.get("activation") == "softmax")
    return (
        f"**{on(result)}**: {report.bandwidth(result)}{scaled}. "
        f"torch {result['torch']}, {result['date'][:10]}: `{result['command']}`"
    )


def changed_since(result: dict) -> str:
    """Of which commit the figures are, and what is different now."""
    later = CHANGED_SINCE.get(commit(result))
    return f"Measured on commit {commit(result)}." + (f" {later}" if later else "")


def in_table(key: tuple, base: tuple) -> bool:
    """Whether a setting differs from the first one in its case alone, with small labels where there are some."""
    return key[2:4] == base[2:4] and key[5] == base[5] and (key[4] != "int64" or base[4] == "int64")


def table(path: Path, root: Path, result: dict, found: dict[tuple, Group]) -> list[str]:
    """The settings that differ from the first one in their case alone, and how many of all meet the targets."""
    device_type = result["device_type"]
    lines = [HEADER, "|---" * (HEADER.count("|") - 1) + "|"]
    base = next(iter(found))
    for key, group in found.items():
        if in_table(key, base) and (OURS, "both") in group:
            lines.append("| " + " | ".join(_cells(key, group, device_type)) + " |")
    complete = [group for group in found.values() if (OURS, "both") in group]
    met = sum(not missed(group, device_type) for group in complete)
    name = path.relative_to(root) if path.is_relative_to(root) else path
    over_unfused = [ratio(group, "both", ("unfused",)) for group in found.values()]
    fused = [r for r in over_unfused if r is not None]
    dtype, layout, mask = (base[i] for i in (2, 3, 5))
    return [
        *lines,
        "",
        f"{dtype}, {LAYOUTS.get(layout, layout)}, {mask} masks. {met} of all {len(complete)} settings meet every target "
        f"measured there; `python -m benchmarks.report {name} --missed` lists the others."
        + (f" A softmax followed by cas_ext takes {span(fused, '{:.1f}')} times as long." if fused else ""),
        "",
    ]


def _cells(key: tuple, group: Group, device_type: str) -> list[str]:
    case, shape, *_ = key
    both = group[OURS, "both"]
    times, shares = [], []
    for phase in ("forward", "backward"):
        row = group.get((OURS, phase))
        times.append(_milliseconds(row["ms"]) if row else "-")
        shares.append(f"{row['share_of_ceiling']:.0%}" if row else "-")
    ratios = [ratio(group, "both", (kind,)) for kind in ("compiled", "eager")]
    return [
        case,
        "x".join(map(str, shape)),
        str(both["regions"]),
        *times,
        " / ".join(shares),
        *("-" if r is None else f"{r:.1f}x" for r in ratios),
        "not finite" if both["rel_error"] is None else f"{both['rel_error']:.0e}",
        "; ".join(missed(group, device_type)).replace("<", "&lt;") or "none",
    ]


def _milliseconds(ms: float) -> str:
    return f"{ms:.2f} ms" if ms >= 1 else f"{1e3 * ms:.1f} us"
