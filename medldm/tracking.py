"""MLflow as a convenience that never stops the work: the files of a run folder are the record.

One MLflow run a command. Tags link them: `medldm.input.<role>` of one run is `medldm.fingerprint` of the run that wrote it.
The store is `mlflow.db` (SQLite) and `mlflow_artifacts/` beside the output folder, unless MLFLOW_TRACKING_URI names another.
Neither user, nor host, nor folder names above the last are written into tags and parameters.
"""

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock

from medldm.files import read_json, sha256
from medldm.machine import bound_tracking
from medldm.run import Run

EXPERIMENT = "medldm"
LOCK_SECONDS = 60
MOST_PER_CALL = 100  # MLflow's limit of parameters in one request
LONGEST_VALUE = 6000  # MLflow's limit of characters in a parameter

log = logging.getLogger(__name__)
bound_tracking()


class Tracker:
    """One MLflow run, switched off by its first failure, which is one line of warning.

    Args:
        folder: where the default store lies.
        parent: the run to nest under, whose store is used.
    """

    def __init__(self, folder: Path, parent: "Tracker | None" = None):
        self.folder, self.parent = Path(folder), parent
        self.on: bool = parent is None or parent.on
        self.run_id = ""
        self._client: Any = None

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        """Log figures, all in one request.

        Args:
            values: name -> value.
            step: optimizer step, where there is one.
        """
        self._attempt(lambda: self._log_metrics(values, step or 0))

    def artifact(self, path: Path) -> None:
        """Copy a file (a report, a picture of slices) into the store."""
        self._attempt(lambda: self._client.log_artifact(self.run_id, str(path)))

    def _attempt(self, action: Callable[[], Any]) -> None:
        if not self.on:
            return
        try:
            action()
        except Exception as error:  # whatever the store does, the training goes on
            self.on = False
            line = re.sub(r"//[^/@\s]+@", "//", (str(error).splitlines() or [""])[0])  # an address may hold a password
            log.warning("MLflow tracking is off for this run (%s: %.200s); the files of the run folder are complete.", type(error).__name__, line)

    def _start(self, name: str, tags: dict[str, str], params: dict[str, str]) -> None:
        if self.parent:
            self._client, experiment = self.parent._client, self.parent._client.get_run(self.parent.run_id).info.experiment_id
            tags = {**tags, "mlflow.parentRunId": self.parent.run_id}
        else:
            self._client, experiment = _open_store(self.folder)
        anonymous = {"mlflow.user": "", "mlflow.source.name": "medldm", "mlflow.source.type": "LOCAL"}
        self.run_id = self._client.create_run(experiment, run_name=name, tags={**anonymous, **tags}).info.run_id
        rest = iter(params.items())
        while some := dict(islice(rest, MOST_PER_CALL)):
            self._log_batch(params=some)

    def _log_batch(self, params: dict[str, str] | None = None, tags: dict[str, str] | None = None) -> None:
        from mlflow.entities import Param, RunTag

        listed = [Param(_key(k), v[:LONGEST_VALUE]) for k, v in (params or {}).items()]
        self._client.log_batch(self.run_id, params=listed, tags=[RunTag(_key(k), v) for k, v in (tags or {}).items()])

    def _log_metrics(self, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        self._client.log_batch(self.run_id, metrics=[Metric(_key(k), float(v), now, step) for k, v in values.items()])


_chain: ContextVar[Tracker | None] = ContextVar("chain", default=None)


@contextmanager
def tracked(run: Run, reads: dict[str, str]) -> Iterator[Tracker]:
    """Track one command; nested when inside `chain`.

    Args:
        run: the claimed output folder.
        reads: role -> fingerprint or sha256 of what the command reads.
    """
    tags = {"medldm.command": run.command, **{f"medldm.input.{role}": value for role, value in reads.items()}}
    with _running(run.root.absolute().parent, f"{run.command} {run.root.name}", tags, flatten(run.arguments)) as tracker:
        yield tracker
        tracker._attempt(lambda: tracker._log_batch(tags=_product(run.root)))


@contextmanager
def chain(out: Path, name: str) -> Iterator[Tracker]:
    """A parent run in the store of folder `out`, under which every `tracked` command inside is nested."""
    with _running(Path(out).absolute(), name, {"medldm.command": name}, {}) as tracker:
        token = _chain.set(tracker)
        try:
            yield tracker
        finally:
            _chain.reset(token)


def flatten(arguments: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested plain values as dotted names and text; of a path only the last part, since the others may name a user."""
    flat: dict[str, str] = {}
    for key, value in arguments.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value := names_only(value), str) else json.dumps(value, default=str)
    return flat


@contextmanager
def _running(folder: Path, name: str, tags: dict[str, str], params: dict[str, str]) -> Iterator[Tracker]:
    tracker = Tracker(folder, _chain.get())
    tracker._attempt(lambda: tracker._start(name, tags, params))
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        tracker._attempt(lambda: tracker._client.set_terminated(tracker.run_id, status))


def _open_store(folder: Path) -> tuple[Any, str]:
    """A client, and the identifier of the experiment."""
    from mlflow import MlflowClient

    for noisy, level in (("mlflow", logging.WARNING), ("alembic", logging.WARNING), ("urllib3", logging.ERROR)):
        logging.getLogger(noisy).setLevel(level)  # table creation and retries would be mistaken for messages of the command
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith(("http:", "https:", "databricks")):
        client = MlflowClient(uri)
        return client, _experiment(client, None)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".mlflow.lock", timeout=LOCK_SECONDS):  # two commands that create the tables at once fail
        client = MlflowClient(uri or f"sqlite:///{folder / 'mlflow.db'}")
        return client, _experiment(client, (folder / "mlflow_artifacts").as_uri())


def _experiment(client: Any, artifacts: str | None) -> str:
    """The experiment, made with an own place for artifacts: MLflow's default is the working folder."""
    found = client.get_experiment_by_name(EXPERIMENT)
    return found.experiment_id if found else client.create_experiment(EXPERIMENT, artifact_location=artifacts)


def _product(root: Path) -> dict[str, str]:
    """The fingerprint under which later commands read what was written."""
    if (root / "cohort.json").is_file():
        return {"medldm.fingerprint": read_json(root / "cohort.json")["fingerprint"]}
    if (root / "model.safetensors").is_file():
        return {"medldm.fingerprint": sha256(root / "model.safetensors")}
    return {}


def names_only(value: Any) -> Any:
    """Settings with the names of files and folders in place of their paths, which can tell of people and institutions."""
    if isinstance(value, dict):
        return {key: names_only(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [names_only(entry) for entry in value]
    is_path = isinstance(value, Path) or (isinstance(value, str) and "/" in value)
    return Path(value).name if is_path else value


def _key(name: str) -> str:
    return re.sub(r"[^\w\-./ :]", "_", name)
