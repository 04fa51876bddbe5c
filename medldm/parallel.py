"""The same work on many items, in several processes."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from threading import Thread
from time import sleep
from typing import TypeVar

from medldm.errors import OutOfSpace, UserError
from medldm.machine import tune_allocator

Item = TypeVar("Item")
Result = TypeVar("Result")


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(work: Callable[[Item], Result], items: Sequence[Item], jobs: int) -> Iterator[Result]:
    """Do the work on each item; results come in the order of the items, a few items ahead of the reader.

    Each process computes with one thread and holds what one item needs. They end with this one, also when it is killed.

    Args:
        work: a function of a module, or a `functools.partial` of one, that changes nothing it shares with other items.
        items: what it is called with, one by one.
        jobs: processes; 1 works in this one.

    Raises:
        OutOfSpace: a process was killed, as systems do that run out of memory.
        UserError: jobs is below 1.
    """
    if jobs < 1:
        raise UserError(f"jobs={jobs}: at least 1 is needed.")
    if min(jobs, len(items)) <= 1:
        yield from map(work, items)
        return
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    bound = partial(_bound_to, os.getpid(), work)
    with parallel_config(backend="loky", inner_max_num_threads=1):
        results = Parallel(n_jobs=min(jobs, len(items)), batch_size=1, return_as="generator")(delayed(bound)(item) for item in items)
    try:
        yield from results
    except TerminatedWorkerError as error:
        raise OutOfSpace("A working process was killed; did memory run out?", f"Try fewer at once: --jobs {max(1, jobs // 2)}") from error


def _bound_to(parent: int, work: Callable[[Item], Result], item: Item) -> Result:
    """Do the work in a process that ends when its parent does and keeps its pages as the parent does."""
    _watch(parent)
    return work(item)


@cache
def _watch(parent: int) -> None:
    """End this process within a second of its parent: loky's own wait five minutes for more work when they are orphaned."""

    def watch() -> None:
        while os.getppid() == parent:
            sleep(1)
        os._exit(1)

    Thread(target=watch, daemon=True).start()
    tune_allocator()
