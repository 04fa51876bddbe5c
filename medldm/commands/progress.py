"""How a training shows where it is: a bar in a terminal, a line per tenth elsewhere, and its curves at the end."""

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track

from medldm.files import atomic
from medldm.report.plots import plot_curves, read_history

Item = TypeVar("Item")


def counted(items: Iterable[Item], total: int, title: str) -> Iterator[Item]:
    """The items, with a bar on the terminal that goes away at the end; elsewhere without."""
    console = Console(stderr=True)
    yield from track(items, title, total=total, console=console, transient=True, disable=not console.is_terminal)


def shown(items: Iterable, title: str) -> Iterable:
    """The items, with a bar that goes away at the end; also where there is no terminal, once."""
    return track(items, title, console=Console(stderr=True), transient=True)


def warner(concerns: Callable[[], list[str]], say: Callable[[str], None], every: int, first: int = 0) -> Callable[[int, dict[str, float]], None]:
    """A watcher that says each kind of concern once; two are of one kind if they agree up to the first bracket or colon.

    Args:
        concerns: gives sentences on what is wrong.
        say: takes lines for the user.
        every: steps between two looks.
        first: step before which nothing has been learnt that could be judged.
    """
    said: set[str] = set()

    def watch(step: int, values: dict[str, float]) -> None:
        for concern in concerns() if step >= first and step % every == 0 else []:
            if (kind := re.split(r"[(:]", concern)[0]) not in said:
                say(f"step {step}: {concern}")
                said.add(kind)

    return watch


class TrainingProgress:
    """Progress of one training.

    Args:
        steps: of the whole training.
    """

    def __init__(self, steps: int):
        self.steps, self.started = steps, time.monotonic()
        self.values: dict[str, float] = {}
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[values]}"))
        console = Console(file=sys.stderr)
        self.bar = Progress(*columns, console=console) if console.is_terminal else None
        self.task = self.bar.add_task("training", total=steps, values="") if self.bar else None
        self.tenth = -1

    def __enter__(self) -> "TrainingProgress":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar:
            self.bar.stop()

    def say(self, line: str) -> None:
        """Print a line without breaking the bar."""
        (self.bar.console if self.bar else Console()).print(line, highlight=False)

    def __call__(self, step: int, values: dict[str, float]) -> None:
        """Show the step and the latest values."""
        self.values.update(values)
        text = "  ".join(f"{name} {value:.4g}" for name, value in self.values.items() if name.startswith("val/") or name == "train/loss")
        if self.bar:
            self.bar.update(self.task, completed=step, values=text)
        elif step * 10 // self.steps > self.tenth:
            self.tenth = step * 10 // self.steps
            elapsed = (time.monotonic() - self.started) / 60
            print(f"step {step}/{self.steps}  {text}  ({elapsed:.1f} min)", flush=True)


def draw_history(root: Path) -> Path:
    """Draw `curves.png` from the `history.csv` of a run folder."""
    path = root / "curves.png"
    with atomic(path) as temporary:
        temporary.write_bytes(plot_curves(read_history(root / "history.csv")))
    return path
