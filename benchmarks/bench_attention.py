"""Cost of attention kernels by history length: python benchmarks/bench_attention.py run|figure [--threads 1].

run: measure seconds and peak memory of a call, each kernel and length in a separate process. Existing results are kept
unless --again. Mode "read" is a forward pass without gradients, "train" a forward and a backward pass.
figure: write docs/attention-costs.png and docs/attention-costs.md from the newest lines of a device and thread count.
Every call processes 8,192 positions for any length, so that costs per position are comparable. Needs Linux.
"""

import argparse
import ctypes
import gc
import json
import math
import multiprocessing
import os
import resource
import signal
import statistics
import time
from collections.abc import Callable
from itertools import pairwise, product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from record import RESULTS, append

ROOT = Path(__file__).parents[1]
MODES = ("read", "train")
LENGTHS = [2**power for power in range(6, 14)]
POSITIONS = LENGTHS[-1]
HEADS, CHANNELS = 2, 32
LONG_CALL_SECONDS, MANY_CALLS = 5, 15

Key = tuple[str, int, str]  # kernel, length, mode
Line = dict[str, Any]


def main() -> None:
    """Measure, or draw the results."""
    from attnrec.attention import ATTENTION_KERNELS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("run", "figure"))
    parser.add_argument(
        "--kernels", nargs="+", choices=ATTENTION_KERNELS, default=list(ATTENTION_KERNELS), metavar="KERNEL"
    )
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS, metavar="LENGTH")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--memory-gb", type=float, default=6, help="memory limit of a call on the CPU, in addition to torch"
    )
    parser.add_argument("--seconds", type=int, default=60, help="time limit of a call")
    parser.add_argument("--again", action="store_true", help="also measure what is in the results")
    options = parser.parse_args()
    {"run": run, "figure": figure}[options.part](options)


def newest_lines(options: argparse.Namespace) -> dict[Key, Line]:
    """Return the newest line of each kernel, length and mode for this device and number of threads."""
    path = RESULTS / "attention.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    setup = {"device": options.device, "threads": options.threads}
    return {(line["model"], line["length"], line["what"]): line for line in lines if setup.items() <= line.items()}


# Measuring


def run(options: argparse.Namespace) -> None:
    """Measure missing results, shortest first; a kernel that fails at a length is not measured at longer ones."""
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    existing = {} if options.again else newest_lines(options)
    failed = set()
    for length, kernel, mode in product(sorted(options.lengths), options.kernels, MODES):
        if (kernel, mode) not in failed:
            line = existing.get((kernel, length, mode)) or measure_in_process(kernel, length, mode, options)
            if line and line["outcome"] != "measured":
                failed.add((kernel, mode))


def measure_in_process(kernel: str, length: int, mode: str, options: argparse.Namespace) -> Line | None:
    """Measure in a separate process and append the line; return None if the kernel raises an error."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "attnrec.attention"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(kernel, length, mode, options, sender))
    process.start()
    sender.close()
    no_result = {"outcome": "too slow", "seconds": None, "peak_mb": None, "tokens_per_second": None}
    try:
        result = receiver.recv()
    except EOFError:  # the process ended without a result
        result = no_result
    process.join()
    if process.exitcode not in (0, -signal.SIGALRM, -signal.SIGPROF):
        print(f"{kernel} {length:5} {mode} FAILED, exit {process.exitcode}: see above", flush=True)
        return None
    batch = max(1, POSITIONS // length)
    line: Line = {"data": "random", "model": kernel, "readout": "-", "split": "-", "seed": 0, "metrics": {}}
    line |= {"length": length, "what": mode, "shape": [batch, HEADS, length, CHANNELS]}
    line |= {"device": options.device, "threads": options.threads, "memory_cap_gb": options.memory_gb}
    line |= no_result | result
    if line["seconds"]:
        line["tokens_per_second"] = batch * length / line["seconds"]
    append("attention", line)
    print(f"{kernel:14} {length:5} {mode:5} {_text(line)}", flush=True)
    return line


def measure(kernel: str, length: int, mode: str, options: argparse.Namespace, sender: Connection) -> None:
    """Send the result or "out of memory"; a timer signal ends the process if a call is too slow."""
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    call, causal = prepare(kernel, length, train=mode == "train", device=torch.device(options.device))
    if options.device == "cpu":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        cap = pages * resource.getpagesize() + int(options.memory_gb * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (cap, cap))
    facts = {"causal": causal, "machine": _machine(options.device)}
    try:
        sender.send(facts | timed(call, options) | {"outcome": "measured"})
    except (MemoryError, RuntimeError) as error:
        if not any(word in str(error).lower() for word in ("memory", "bad_alloc")):
            raise
        sender.send(facts | {"outcome": "out of memory"})


def prepare(kernel: str, length: int, *, train: bool, device: Any) -> tuple[Callable[[], None], bool]:
    """Return a call of the kernel on random states, and whether it is causal."""
    import torch

    from attnrec.attention import KernelShape, build_kernel

    try:
        built, causal = build_kernel(kernel, KernelShape(HEADS, CHANNELS, length, causal=True)), True
    except ValueError:
        built, causal = build_kernel(kernel, KernelShape(HEADS, CHANNELS, length, causal=False)), False
    built = built.to(device).train(train)
    size = (max(1, POSITIONS // length), HEADS, length, CHANNELS)
    q, k, v, gradient = (torch.randn(size, device=device) for _ in range(4))
    gaps = torch.empty(size[0], length, device=device).exponential_(1e-5)  # about a day between events
    times = (1_600_000_000 + gaps.double().cumsum(-1)).long() if built.needs_times else None
    leaves = [q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), *built.parameters()]

    def call() -> None:
        with torch.set_grad_enabled(train):
            output = built(q, k, v, causal=causal, times=times).output
        if train:
            output.backward(gradient)
        for leaf in leaves:
            leaf.grad = None

    return call, causal


def timed(call: Callable[[], None], options: argparse.Namespace) -> Line:
    """Return the median seconds of a call and the peak memory that it adds, in MB.

    A single thread on the CPU is timed by its thread clock, so that waiting for other processes is excluded.
    """
    import torch

    one_thread = options.device == "cpu" and options.threads == 1
    clock = time.thread_time if one_thread else time.perf_counter
    alarm = signal.ITIMER_PROF if one_thread else signal.ITIMER_REAL

    def seconds() -> float:
        signal.setitimer(alarm, options.seconds)
        started = clock()
        call()
        if options.device == "cuda":
            torch.cuda.synchronize()
        taken = clock() - started
        signal.setitimer(alarm, 0)
        return taken

    _keep_freed_up_to(2**16)  # measure the memory of tensors, not of the allocator's cache
    seconds()  # warm-up: loads code and creates permanent buffers
    before = _memory_mark(options.device)
    seconds()
    peak = (torch.cuda.max_memory_allocated() if options.device == "cuda" else _resident("VmHWM")) - before
    _keep_freed_up_to(2**25)  # the value that glibc's dynamic threshold reaches; calls are faster with it
    taken = [seconds()]
    if taken[0] < LONG_CALL_SECONDS:
        n_calls = min(MANY_CALLS, max(3, math.ceil(0.5 / taken[0])))
        taken += [seconds() for _ in range(n_calls - 1)]
    facts = {"seconds": statistics.median(taken), "clock": clock.__name__, "calls": len(taken)}
    return facts | {"peak_mb": round(peak / 2**20, 2)}


def _memory_mark(device: str) -> int:
    """Reset the peak and return the bytes in use."""
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)
    # not ru_maxrss, which cannot be reset and starts at the parent's value
    Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def _keep_freed_up_to(size: int) -> None:
    """Let glibc return freed blocks of at least `size` bytes at once, and keep smaller ones for reuse."""
    libc, trim_threshold, mmap_threshold = ctypes.CDLL(None), -1, -3
    libc.mallopt(mmap_threshold, size)
    libc.mallopt(trim_threshold, 2 * size)


def _resident(field: str) -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[field].split()[0]) * 1024


def _machine(device: str) -> str:
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{models[0].split(':')[1].strip()}, {len(models)} CPUs" if models else "CPU"


def _text(line: Line) -> str:
    if line["outcome"] != "measured":
        return line["outcome"]
    note = "" if line["causal"] else ", not causal"
    return f"{line['seconds']:8.4f} s x {line['calls']}, {line['peak_mb']:8.1f} MB{note}"


# Showing

LINEAR_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#E69F00")  # Okabe & Ito
OTHER_COLOURS = ("#CC6677", "#332288", "#999933", "#117733", "#88CCEE", "#882255", "#44AA99", "#AA4499", "#661100")
OTHER_COLOURS += ("#777777", "#B8960C")  # Paul Tol's muted palette, with a darker yellow
HEAD = """\
| kernel | time | memory | µs at 256 | µs at {0:,} | MB at 256 | MB at {0:,} | inference: µs at {0:,} | MB at {0:,} |
|---|---|---|---|---|---|---|---|---|"""
LOCAL_HEAD = """\
| length | local_global: µs | MB | scaled_dot: µs | MB |
|---|---|---|---|---|"""
PAGE = """\
<!-- generated by python benchmarks/bench_attention.py figure -->
# Cost of attention kernels by history length

![Time and memory of every attention kernel by history length](attention-costs.png)

Training is a forward and a backward pass, inference a forward pass. µs are per position, MB of peak memory per 1,000
positions. "time" and "memory" are the exponents p in cost ~ length^p of training on one history, fitted from 1,024
positions on: 1 is linear, 2 quadratic.

{table}

For histories longer than {few} windows of 64, `local_global` computes bands instead of a masked matrix; its cost should
then be linear. Training, compared with `scaled_dot`:

{local}

Measured: {source}.
A call processes 8,192 positions of random states, as 8,192 / length histories without padding, with 2 heads of 32
channels, float32, default settings of each kernel, causal if the kernel supports it. Times are the median of 3 to 15
calls after a warm-up call, or a single call if it takes over 5 s. Every number is from a separate process; memory is
the maximum that a call adds to the process with its inputs. CPU time excludes waiting for other processes, but not the
effect of shared caches: the same call took up to half more time under other load, which was present for lengths up to
2,048 only.
"""

Curve = dict[int, float]  # length -> cost per position, for the measured lengths


def figure(options: argparse.Namespace) -> None:
    """Draw and tabulate the newest lines."""
    from attnrec.attention.local_global import MAX_DENSE_WINDOWS

    lines = newest_lines(options)
    folder = ROOT / "docs"
    folder.mkdir(exist_ok=True)
    draw(lines, folder / "attention-costs.png")
    parts = {"table": table(lines), "local": local_table(lines), "source": source(lines), "few": MAX_DENSE_WINDOWS}
    (folder / "attention-costs.md").write_text(PAGE.format(**parts), encoding="utf-8")
    print(PAGE.format(**parts))


def cost(line: Line, value: str) -> float:
    """Return "seconds" as µs per position, or "peak_mb" as MB per 1,000 positions."""
    return line[value] * {"seconds": 1e6, "peak_mb": 1e3}[value] / (line["shape"][0] * line["length"])


def curves(lines: dict[Key, Line], value: str) -> dict[str, Curve]:
    """Return the training cost of each kernel by length."""
    result: dict[str, Curve] = {}
    for (kernel, length, mode), line in sorted(lines.items()):
        if mode == "train" and line["outcome"] == "measured":
            result.setdefault(kernel, {})[length] = cost(line, value)
    return result


def growth(curve: Curve) -> float:
    """Return the exponent p of cost ~ length^p for one history: 1 is linear, 2 quadratic."""
    import numpy as np

    return 1 + float(np.polyfit(np.log([*curve]), np.log([*curve.values()]), 1)[0]) if len(curve) > 1 else math.nan


def is_linear(curve: Curve) -> bool:
    """Return whether the cost grows linearly between the two longest lengths."""
    return growth(dict([*curve.items()][-2:])) < 1.5


def draw(lines: dict[Key, Line], path: Path) -> None:
    """Draw two panels: time and memory of training by length."""
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullLocator

    times, memory = curves(lines, "seconds"), curves(lines, "peak_mb")
    ordered = sorted(times, key=lambda kernel: not is_linear(times[kernel]))
    n_linear = sum(is_linear(curve) for curve in times.values())
    colours = dict(zip(ordered, [*LINEAR_COLOURS[:n_linear], *OTHER_COLOURS, *LINEAR_COLOURS[n_linear:]], strict=False))
    plot, panels = pyplot.subplots(1, 2, figsize=(13, 6.2), dpi=110, layout="constrained")
    titles = ("Time: µs per position", "Peak memory: MB per 1,000 positions")
    for panel, title, by_kernel in zip(panels, titles, (times, memory), strict=True):
        for kernel, curve in by_kernel.items():
            style = {"linewidth": 2.2} if is_linear(curve) else {"linewidth": 1.3, "linestyle": (0, (4, 1.5))}
            panel.loglog([*curve], [*curve.values()], color=colours[kernel], marker="o", markersize=3, **style)
        lengths = sorted({length for curve in by_kernel.values() for length in curve})
        panel.set_xticks(lengths, [f"{length:,}" for length in lengths])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:,g}")
        panel.yaxis.set_minor_locator(NullLocator())
        panel.set_title(title, loc="left")
        panel.set_xlabel("history length (positions)")
        panel.grid(color="#e6e6e6", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        label_ends(panel, by_kernel, colours)
    caption = "Forward and backward pass. Solid: linear growth between the two longest lengths; dashed: superlinear."
    plot.suptitle(f"{caption}\n{source(lines)}", fontsize=9, color="#555555")
    plot.savefig(path)
    pyplot.close(plot)


def label_ends(panel: Any, by_kernel: dict[str, Curve], colours: dict[str, str], *, gap: float = 0.038) -> None:
    """Write each kernel's name beside the end of its line, at least `gap` of the panel's height apart."""
    bottom, top = map(math.log, panel.get_ylim())
    ends = {kernel: [*curve.items()][-1] for kernel, curve in by_kernel.items()}
    heights = {kernel: (math.log(y) - bottom) / (top - bottom) for kernel, (_, y) in ends.items()}
    order = sorted(heights, key=lambda kernel: heights[kernel])
    for lower, upper in [*pairwise(order)] * 300:  # move neighbours apart until all have room
        overlap = max(0.0, gap - heights[upper] + heights[lower]) / 2
        heights[lower], heights[upper] = heights[lower] - overlap, heights[upper] + overlap
    for kernel, end in ends.items():
        line = {"arrowstyle": "-", "color": colours[kernel], "linewidth": 0.7, "shrinkB": 2, "relpos": (0, 0.5)}
        position = {"xytext": (1.05, heights[kernel]), "textcoords": "axes fraction", "va": "center", "fontsize": 9}
        panel.annotate(kernel, end, color="#222222", arrowprops=line, annotation_clip=False, **position)


def table(lines: dict[Key, Line]) -> str:
    """Return the table of kernels, the cheapest at the longest length first."""
    times, memory = curves(lines, "seconds"), curves(lines, "peak_mb")
    longest = max(length for length in LENGTHS if sum(length in curve for curve in times.values()) > len(times) / 2)
    rows = [HEAD.format(longest)]
    for kernel in sorted(times, key=lambda kernel: times[kernel].get(longest, math.inf)):
        cells = [kernel if lines[kernel, min(times[kernel]), "train"]["causal"] else f"{kernel} (not causal)"]
        for by_kernel in (times, memory):
            cells.append(f"{growth({length: y for length, y in by_kernel[kernel].items() if length >= 1024}):.2f}")
        for value, length in product(("seconds", "peak_mb"), (256, longest)):
            cells.append(_cell(lines, (kernel, length, "train"), value))
        cells += [_cell(lines, (kernel, longest, "read"), value) for value in ("seconds", "peak_mb")]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def local_table(lines: dict[Key, Line]) -> str:
    """Return the training cost of `local_global` and `scaled_dot` by length."""
    rows = [LOCAL_HEAD]
    for length in LENGTHS[LENGTHS.index(256) :]:
        pairs = product(("local_global", "scaled_dot"), ("seconds", "peak_mb"))
        cells = [_cell(lines, (kernel, length, "train"), value) for kernel, value in pairs]
        rows.append("| " + " | ".join([f"{length:,}", *cells]) + " |")
    return "\n".join(rows)


def _cell(lines: dict[Key, Line], key: Key, value: str) -> str:
    """Return the cost as text, or the reason why the kernel failed at this or a shorter length."""
    kernel, length, mode = key
    for shorter in LENGTHS[: LENGTHS.index(length) + 1]:
        line = lines.get((kernel, shorter, mode))
        if line and line["outcome"] != "measured":
            return line["outcome"]
    if key not in lines:
        return "-"
    number = cost(lines[key], value)
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def source(lines: dict[Key, Line]) -> str:
    """Describe machine, threads, version, clock and dates of the lines."""
    measured = [line for line in lines.values() if line["outcome"] == "measured"]
    clock = {"thread_time": "CPU time", "perf_counter": "wall time"}[measured[0]["clock"]]
    threads = "one thread" if measured[0]["threads"] == 1 else f"{measured[0]['threads']} threads"
    machines = sorted({line["machine"] for line in measured})
    torches = sorted({f"torch {line['versions']['torch']}" for line in measured})
    days = sorted(line["date"][:10] for line in measured)
    return ", ".join([*machines, threads, *torches, clock, " to ".join(sorted({days[0], days[-1]}))])


if __name__ == "__main__":
    main()
