"""Are the numbers of README and docs those that were measured?

    python benchmarks/readme.py            write them anew from results/*.json
    python benchmarks/readme.py --check    change nothing; exit code 1 where one differs, with both texts

A sentence or a line of a table stands here once, its numbers taken from the results. In its page it is found
by the words around them; a page that says it in other words is refused, so text and number are changed
together. What has no file in results/ is not here: counts that tests make, the demo's table, and
docs/history.json, which has a test of its own.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "\x02", "\x03"  # around a number, so that its place in a text is known
NUMBER = r"[-–+\d][\d.,]*|–"

Text = tuple[str, str]  # page, what it says


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 where one differs")
    check = parser.parse_args().check
    results = {path.stem: json.loads(path.read_bytes()) for path in RESULTS.glob("*.json")}
    faults = renew(list(texts(results)), ROOT, write=not check)
    for fault in faults:
        print(fault, file=sys.stderr)
    sys.exit(1 if faults else 0)


def renew(found: list[Text], root: Path, *, write: bool) -> list[str]:
    """Put the numbers of texts into their pages; what is wrong with those that have no place there and, where
    nothing is written, with those whose numbers differ.
    """
    faults = []
    for page in dict.fromkeys(page for page, _ in found):
        path = root / page
        before = content = path.read_text(encoding="utf-8")
        for text in (text for of, text in found if of == page):
            said = text.replace(BEGIN, "").replace(END, "")
            there = re.findall(pattern(text), content)
            if len(there) != 1:
                faults.append(f"{page}: says {len(there)} times, with whatever numbers: {said}")
            elif there[0] != said:
                content = content.replace(there[0], said)
                if not write:
                    faults.append(f"{page}: says\n    {there[0]}\n  and measured was\n    {said}")
        if write and content != before:
            path.write_text(content, encoding="utf-8")
    return faults


def pattern(text: str) -> str:
    """A regular expression for a text with any numbers."""
    words = re.split(f"{BEGIN}.*?{END}", text)
    return f"(?:{NUMBER})".join(re.escape(part) for part in words)


def n(value: float | None, form: str = ".0f") -> str:
    """A number of a text; a dash where it was not measured."""
    return f"{BEGIN}{'–' if value is None else format(value, form)}{END}"


def release(found: dict[str, Any], package: str) -> str:
    """The version of a package that a result was made with, without its last number."""
    return f"{BEGIN}{'.'.join(found['conditions']['versions'][package].split('.')[:2])}{END}"


def texts(results: dict[str, Any]) -> Iterator[Text]:
    """All that README and docs say of results."""
    yield from of_scan(results["scan"])
    yield from of_loading(results["loading"])
    yield from of_sweeps(results["sweeps"])
    yield from of_step(results["step"])
    yield from of_extraction(results["extraction"])
    yield from of_job(results["job"])
    yield from of_report(results["report"])
    for name, of in {"training": of_training, "mamba": of_mamba}.items():
        if name in results:  # not run to its end yet
            yield from of(results[name])


def of_scan(found: dict[str, Any]) -> Iterator[Text]:
    both, page = "plain forward+backward", "docs/scan.md"
    times = {
        (shape, key): {way: one[key] for way, one in ways.items()}
        for key in (both, "plain forward")
        for shape, ways in found["scans_milliseconds"].items()
    }
    first = times["128x16x1536", both]
    jax, mambapy, theirs = (release(found, name) for name in ("jax", "mambapy", "transformers"))
    yield (
        page,
        "| batch x steps x channels | `cpu` | `chunked` | loop, compiled | loop | "
        f"JAX {jax} | mambapy {mambapy} | transformers {theirs} |",
    )
    yield (
        "README.md",
        f"Forward and backward of 128 x 16 x 1,536 take {n(first['cpu'])} ms on two cores; the best loop "
        f"we know in PyTorch, compiled, takes {n(first['compiled'] / first['cpu'], '.1f')} times as "
        f"long, JAX {n(first['jax'] / first['cpu'])} times, mambapy {mambapy} "
        f"{n(first['mambapy'] / first['cpu'])} times.",
    )
    for (shape, key), own in times.items():
        batch, steps, channels = (int(size) for size in shape.split("x"))
        others = [
            n(own[way] and own[way] / own["cpu"], ".1f")
            for way in ("chunked", "compiled", "loop", "jax", "mambapy", "transformers")
        ]
        what = f"{batch} x {steps:,} x {channels:,}, {'both' if key == both else 'forward'}"
        yield page, f"| {what} | {n(own['cpu'], '.1f')} ms | {' | '.join(others)} |"
    rates = found["machine_rates"]
    beside = max(0.0, 100 * (rates["multiply_adds"] / rates["beside_additions"] - 1))
    yield (
        page,
        f"a multiply-add with an addition beside it takes {n(beside)} % longer than one alone",
    )
    rest = found["rest"]
    yield (
        page,
        f"bfloat16 takes {n(rest['bfloat16_vs_float32'], '.2f')} of float32's time at the first shape.",
    )
    yield (
        page,
        f"takes {n(rest['plain_memory_beyond_gigabytes'], '.1f')} GB, "
        f"{n(rest['plain_memory_beyond_vs_inputs'], '.2f')} of its inputs.",
    )
    yield (
        page,
        f"The pooled scan saves a Mamba block of 1,569 tokens {n(100 * rest['pooled_block_saving'])} % of "
        "its time",
    )
    yield (
        page,
        f"2 x 40 tokens takes {n(rest['step_vs_products'], '.2f')} times as long as its matrix products "
        "alone.",
    )
    reached = {
        way: [n(one[way]["percent"]) for one in found["roofline"].values()] for way in (both, "plain forward")
    }
    yield (
        page,
        f"the three shapes reach {reached[both][0]}, {reached[both][1]} and {reached[both][2]} % forward and "
        "backward ({}, {} and {} % forward).".format(*reached["plain forward"]),
    )
    at_best = [
        n(ways["compiled"] / ways["cpu"] * 100 / found["roofline"][shape][both]["percent"], ".1f")
        for (shape, key), ways in times.items()
        if key == both and ways["compiled"]
    ]
    yield (
        page,
        f"If ours reached 100 %, the compiled loop would take {' and '.join(at_best)} times as long at the "
        "first two, forward and backward.",
    )


def of_loading(found: dict[str, Any]) -> Iterator[Text]:
    page, batches, safety = "docs/store.md", found["batches"]["16x768"], found["safety"]
    limit = batches["numpy memmap"]["milliseconds"]
    in_ram = batches['mambavl, resident="ram"']
    names = {
        "numpy memmap": "numpy memmap of one array (the limit)",
        "mambavl": "**mambavl**",
        "mambavl, pure Python": "mambavl without the native part",
        'mambavl, verify="read"': 'mambavl, `verify="read"`',
        'mambavl, resident="ram"': f'mambavl, `resident="ram"` ({n(in_ram["ram_megabytes"])} MB)',
        "LMDB": "LMDB, a value a row",
        "safetensors": "safetensors",
        "h5py": "h5py",
        "datasets, bytes": "Hugging Face's datasets, a column of bytes",
        "datasets, torch": "the same, a column of arrays as torch",
        "Lance": "Lance, a column of bytes",
        "Parquet": "Parquet, a column of bytes, each row a row group",
        "zarr-python": "zarr-python, the archive of mambavl",
    }
    yield (
        "README.md",
        f"Random batches come straight from the Zarr shards at {n(found['gather_vs_memmap'], '.2f')} of the "
        "speed of a numpy memmap",
    )
    for name, said in names.items():
        one = batches.get(name)
        time, rate = (one[key] if one else None for key in ("milliseconds", "gigabytes_per_second"))
        speed = limit / time if time else None
        forms = (".4f", ".2f") if speed and speed < 0.01 else (".2f", ".1f")
        yield page, f"| {said} | {n(time, '.2f')} | {n(speed, forms[0])} | {n(rate, forms[1])} |"
    yield (
        page,
        f"An epoch of {n(found['conditions']['epoch_rows'], ',')} such rows took "
        f"{n(1 / safety['epoch_vs_memmap'], '.2f')} times as long as with a memmap; the first epoch, which "
        f"maps the pages, {n(1 / safety['first_epoch_vs_memmap'], '.2f')} times.",
    )
    yield (
        page,
        f"A store of 90,000 rows opens in {n(safety['open_90k_seconds'], '.2f')} s. `verify --deep` reads "
        f"{n(safety['verify_mb_per_second'], ',')} MB/s on one core (sha256 alone: "
        f"{n(safety['sha256_mb_per_second'], ',')}). Writing takes {n(1 / safety['write_vs_plain'], '.1f')} "
        "times as long as writing and syncing the same bytes as plain files.",
    )
    epochs = found.get("epochs", {})
    seconds = [one and one["milliseconds"] / 1e3 for one in map(epochs.get, ("WebDataset", "mambavl"))]
    yield (
        page,
        f"That epoch took WebDataset {n(seconds[0], '.1f')} s, in its own sequence, and the store "
        f"{n(seconds[1], '.2f')} s, in random order.",
    )
    yield from of_workers(page, found.get("workers", {}))


def of_workers(page: str, found: dict[str, Any]) -> Iterator[Text]:
    for start in ("fork", "forkserver", "spawn"):
        for kind, said in (("same", "the same two"), ("anew", "two new ones an epoch")):
            one = found.get(start, {}).get(kind, {})
            counts = [
                n(one.get(key), form) for key, form in (("epochs", ","), ("wrong", ","), ("seconds", ".0f"))
            ]
            grown = [
                " to ".join(n(value, ",.0f") for value in one.get(key, (None, None)))
                for key in ("descriptors", "megabytes")
            ]
            yield page, f"| {start}, {said} | {' | '.join([*counts, *grown])} |"


def of_sweeps(found: dict[str, Any]) -> Iterator[Text]:
    page = "docs/training.md"
    for name, one in found.items():
        if "_d" not in name:
            continue
        head, width = name.split("_d")
        seconds = [n(one[key] / 1000, ".2f") for key in ("sequence_ms", "two_processes_ms", "one_pass_ms")]
        ratios = [n(one[key], ".1f") for key in ("ratio", "cpu_ratio", "one_pass_in_heads")]
        memory = [n(one[key], ",") for key in ("sequence_mb", "one_pass_mb")]
        yield (
            page,
            f"| `{head}`, d {width} | {n(one['heads'])} | {' | '.join([*seconds, *ratios, *memory])} |",
        )
    floor = found["floor"]
    yield (
        page,
        f"Twenty heads with next to nothing to compute cost {n(floor['ratio'], '.1f')} times what one does "
        f"({n(floor['together_ms'], '.1f')} against {n(floor['one_ms'], '.1f')} ms of CPU a step).",
    )


def of_step(found: dict[str, Any]) -> Iterator[Text]:
    widths = {}
    for width in (768, 192, 64):
        widths[width] = [
            n(found[f"d{width}_{protocol}"]["ratio"], ".2f") for protocol in ("oracle", "generic")
        ]
    yield (
        "docs/training.md",
        f"A step of 128 rows of EK100's shape is {widths[768][0]} times as fast for it with oracle questions "
        f"and {widths[768][1]} times with generic ones (`d_model` 768; 192: {widths[192][0]} and "
        f"{widths[192][1]}; 64: {widths[64][0]} and {widths[64][1]}).",
    )


def of_extraction(found: dict[str, Any]) -> Iterator[Text]:
    page, encoders = "docs/encoders.md", found["encoders"]
    over = [one["over_floor"] for one in encoders.values()]
    avion = encoders["avion-vit-b"]
    yield (
        page,
        f"On two cores a forward takes {n(min(over), '.2f')} to {n(max(over), '.2f')} times as long as its "
        "matrix products alone",
    )
    yield (
        page,
        f"AVION ViT-B over 16 frames peaks {n(avion['peak_above_weights_megabytes'])} MB above its weights; "
        f"the N x N scores of its heads alone would take {n(avion['all_scores_megabytes'])}.",
    )


def of_job(found: dict[str, Any]) -> Iterator[Text]:
    page, rate, frames = "docs/data.md", found["rate"], found["frames"]
    groups = {name: one for name, one in found["overlap"].items() if "before" in one}
    slow = next(one for name, one in found["overlap"].items() if name not in groups)
    shares = ", ".join(n(one["overhead"], ".2f") for one in groups.values())
    rows = [one["rows"] for one in groups.values()]
    yield (
        page,
        f"| job / slowest stage, decoder and encoder equally slow, {n(rows[0])} rows in batches of 8; groups "
        f"of 8, 32, 512 rows | {shares} |",
    )
    yield (
        page,
        f"| the same, decoding four times as slow on 4 threads, {n(slow['rows'])} rows | "
        f"{n(slow['overhead'], '.2f')} |",
    )
    yield (
        page,
        "| rows a second with an encoder that costs nothing: 1080p at 12 Mb/s, 456x256 | "
        f"{n(rate['1080p']['here_rows_per_s'], '.1f')}, {n(rate['456x256']['here_rows_per_s'])} |",
    )
    yield (
        page,
        "| CPU of decode and resize for three encoders (224, 224, 336 pixels; 1080p): three runs / one "
        f"decode | {n(found['encoders']['saved'], '.1f')} |",
    )
    for size in ("1080p", "456x256"):
        forms = ".0f" if size == "1080p" else ".1f"
        own = [
            n(frames[way][size]["milliseconds"], forms)
            for way in ("mambavl", "PyAV, the usual loop", "decord")
        ]
        said = f"the same, {size}"
        if size == "1080p":
            said = "CPU milliseconds a wanted frame, 1080p: here, PyAV's usual loop, decord"
        yield page, f"| {said} | {', '.join(own)} |"


def of_report(found: dict[str, Any]) -> Iterator[Text]:
    rows, clips = (found["conditions"][key] for key in ("rows", "clips"))
    megabytes, usable = found["megabytes"], statistics.median(found["usable_ms"]) / 1000
    yield (
        "docs/results.md",
        f"A page of {n(rows, ',')} rows, ten runs and {n(clips)} clips takes {n(megabytes, '.1f')} MB and"
        f" makes {n(found['requests'])} requests. Writing it took {n(found['write_seconds'])} s and "
        f"{n(found['peak_megabytes'])} MB of memory; in Chromium on two cores a row could be used "
        f"{n(usable, '.1f')} s after the page was opened",
    )


def of_training(found: dict[str, Any]) -> Iterator[Text]:
    page, ways, large, ek100 = "docs/training.md", found["ways"], found["large_batch"], found["ek100_hours"]
    names = {
        "cache": "the cache",
        "loop": "the encoder in the loop, which decodes each batch",
        "frames": "the encoder in the loop, frames in memory",
    }
    for way, said in names.items():
        one = ways[way]
        shares = " | ".join(f"{n(share, '.1f')} %" for share in one["percent"].values())
        milliseconds, ratio = n(1e3 * one["seconds_a_row"], ",.0f"), n(one["over_cache"], ",.1f")
        yield page, f"| {said} | {milliseconds} | {shares} | {ratio} |"
    once, fastest = found["extraction"]["seconds_a_row"], (ways[way]["fastest"] for way in ("loop", "frames"))
    saved = min(fastest) / 1000 / found["rows"] - ways["cache"]["seconds_a_row"]  # at least
    yield (
        page,
        f"Extraction took {n(once, '.1f')} s a row, once: with it the cache is cheaper than either loop from "
        f"epoch {n(once // saved + 1)} on. In steps of {n(large['rows'])} rows a row from the cache takes "
        f"{n(1e3 * large['seconds_a_row'], '.1f')} ms.",
    )
    hours = {
        key: n(ek100[key], ",.1f" if key == "cache" else ",.0f")
        for key in ("cache", "extraction", "loop", "frames")
    }
    yield (
        page,
        f"{n(ek100['epochs'])} epochs of EK100's {n(ek100['rows'], ',')} rows would take {hours['cache']} "
        f"hours on this machine from the cache after {hours['extraction']} of extraction, {hours['loop']} "
        f"with the encoder in the loop and {hours['frames']} if all frames",
    )


def of_mamba(found: dict[str, Any]) -> Iterator[Text]:
    for length, works in found["lengths"].items():
        for work, its in works.items():
            own = its["ours"]
            rates = [n(own["tokens_per_second"], ",.0f")]
            for way in ("loop", "mambapy", "associative"):
                one = its.get(way)
                rates.append(n(one and one["milliseconds"] / own["milliseconds"], ".1f"))
            yield "docs/scan.md", f"| {int(length):,} | {work} | {' | '.join(rates)} |"


if __name__ == "__main__":
    main()
