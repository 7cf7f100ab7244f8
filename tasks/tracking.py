"""MLflow: runs, the registry and its aliases. One process writes; nothing here knows how models are made."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from nightcast import __version__
from nightcast.contracts.decision import Decision
from nightcast.contracts.errors import RegistryError
from tasks.settings import Settings

CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous-champion"
"""Tag on the registered model: versions that were champion before, newest last, as JSON."""
GATE = "gate"
"""Tag on a version: what the champion gate of its night said, `passed` or `refused`; none where it was never asked."""
GATE_FAILED = "gate_failed"
"""Tag on a version: the guards that said no, as JSON."""
GATE_REASON = "gate_reason"
"""Tag on a version: the gate's decision in words."""
FORCED = "promoted_against_gate"
"""Tag on a version: why a person promoted it although the gate did not."""


_TAG_LENGTH = 4000


def registered_name(workload: str) -> str:
    """The registered model of a workload."""
    return f"nightcast-{workload}"


@dataclass(frozen=True)
class Version:
    """One version in the registry."""

    name: str
    number: str
    run_id: str
    night_id: str
    recipe_hash: str
    as_of: str
    tags: dict[str, str]

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes."""
        return f"models:/{self.name}/{self.number}"

    @property
    def gate(self) -> str:
        """What its gate said: `passed`, `refused (which guards)` or `not asked`."""
        said = self.tags.get(GATE, "not asked")
        failed = ", ".join(self.gate_failed)
        return f"{said} ({failed})" if failed else said

    @property
    def gate_failed(self) -> tuple[str, ...]:
        """Guards that said no."""
        return tuple(json.loads(self.tags.get(GATE_FAILED, "[]")))

    @property
    def forced(self) -> str:
        """Why a person promoted it against its gate; empty where none did."""
        return self.tags.get(FORCED, "")


def load_mlflow() -> Any:
    """Import MLflow with its telemetry and chatter switched off."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_REGISTRY_PRINT_MODEL_URLS_ON_CREATION", "false")
    import mlflow

    return mlflow


class Tracking:
    """Runs and registry of one home.

    Raises
    ------
    RegistryError
        From any method, if MLflow's database cannot be reached.
    """

    def __init__(self, settings: Settings) -> None:
        import logging

        mlflow = load_mlflow()
        logging.getLogger("alembic").setLevel(logging.ERROR)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.ERROR)
        if settings.mlflow_uri is None:
            (settings.root / "mlflow").mkdir(parents=True, exist_ok=True)
        self._artifact_root = settings.artifact_root
        self._mlflow = mlflow
        mlflow.set_tracking_uri(settings.tracking_uri)
        mlflow.set_registry_uri(settings.tracking_uri)
        self.client = mlflow.MlflowClient(settings.tracking_uri, settings.tracking_uri)

    # runs

    def experiment(self, workload: str) -> str:
        """Id of the workload's experiment, made if need be."""
        name = registered_name(workload)
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        root = None if self._artifact_root is None else f"{self._artifact_root}/{name}"
        return str(self.client.create_experiment(name, artifact_location=root))

    def close_dead_runs(self, workload: str, night_id: str) -> None:
        """End runs that a killed attempt at the same night left running."""
        runs = self.client.search_runs(
            [self.experiment(workload)],
            filter_string=f"tags.night_id = '{night_id}' and attributes.status = 'RUNNING'",
        )
        for run in runs:
            self.client.set_terminated(run.info.run_id, status="KILLED")

    @contextmanager
    def run(self, workload: str, name: str, *, tags: Mapping[str, str], parent: str | None = None) -> Iterator[str]:
        """A run from start to end; it fails if the block raises."""
        labels = dict(tags) | ({"mlflow.parentRunId": parent} if parent else {})
        run = self.client.create_run(self.experiment(workload), run_name=name, tags=labels)
        status = "FAILED"
        try:
            yield str(run.info.run_id)
            status = "FINISHED"
        finally:
            self.client.set_terminated(run.info.run_id, status=status)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Parameters, as text."""
        from mlflow.entities import Param

        self.client.log_batch(run_id, params=[Param(str(k), str(v)[:5900]) for k, v in params.items()])

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Finite metrics in one batch."""
        self._log_batch(run_id, [(name, value, step) for name, value in metrics.items()])

    def log_steps(self, run_id: str, name: str, values: Sequence[float | None]) -> None:
        """One metric at steps 0, 1, ... in one batch; steps without a finite value are left out."""
        self._log_batch(run_id, [(name, value, step) for step, value in enumerate(values)])

    def _log_batch(self, run_id: str, metrics: Sequence[tuple[str, float | None, int]]) -> None:
        import math
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        finite = [(n, float(v), step) for n, v, step in metrics if v is not None and math.isfinite(v)]
        self.client.log_batch(run_id, metrics=[Metric(n, v, now, step) for n, v, step in finite])

    def log_folder(self, run_id: str, folder: Path, at: str | None = None) -> None:
        """All files of a folder."""
        self.client.log_artifacts(run_id, str(folder), at)

    def log_text(self, run_id: str, text: str, at: str) -> None:
        """One text file."""
        self.client.log_text(run_id, text, at)

    def log_bytes(self, run_id: str, files: Mapping[str, bytes], at: str) -> None:
        """Files from memory."""
        with tempfile.TemporaryDirectory() as scratch:
            for name, content in files.items():
                (Path(scratch) / name).write_bytes(content)
            self.client.log_artifacts(run_id, scratch, at)

    def log_dataset(self, run_id: str, frame: pl.DataFrame, *, name: str, digest: str, origin: str) -> None:
        """The snapshot as an MLflow dataset input."""
        from mlflow.data.pandas_dataset import from_pandas
        from mlflow.entities import DatasetInput, InputTag

        with self._quiet():
            dataset = from_pandas(frame.head(1000).to_pandas(), source=origin, name=name, digest=digest)
        tag = InputTag("mlflow.data.context", "training")
        self.client.log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity(), [tag])])

    # registry

    def register(
        self,
        workload: str,
        run_id: str,
        bundle: Path,
        *,
        evidence: Path,
        example: pl.DataFrame,
        output: pl.DataFrame,
        optional: Sequence[str],
        tags: Mapping[str, str],
    ) -> Version:
        """Log the bundle as a served model and make it a version, once a night.

        Parameters
        ----------
        evidence
            Folder with the ensemble's out-of-fold rows, kept beside the bundle for the next comparison.
        example
            Input rows of a few series.
        output
            What the model answers to them.
        optional
            Input columns that may be missing.
        """
        name = registered_name(workload)
        found = self.find(workload, night_id=tags["night_id"])
        if found is not None:
            return found
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, Schema

        inputs = Schema([ColSpec(_mlflow_type(t), n, required=n not in optional) for n, t in example.schema.items()])
        outputs = Schema([ColSpec(_mlflow_type(t), n) for n, t in output.schema.items()])
        entry = Path(__file__).with_name("serving.py")
        with self._quiet():
            self._mlflow.start_run(run_id=run_id)
            try:
                info = self._mlflow.pyfunc.log_model(
                    name="model",
                    python_model=str(entry),
                    artifacts={"bundle": str(bundle), "evidence": str(evidence)},
                    signature=ModelSignature(inputs=inputs, outputs=outputs),
                    input_example=example.head(200).to_pandas(),
                    pip_requirements=[f"nightcast=={__version__}"],
                    metadata={"nightcast": __version__, **tags},
                )
            finally:
                # The night's own context manager ends the run; this only leaves MLflow's thread-local one.
                self._mlflow.end_run(status="RUNNING")
        try:
            self.client.create_registered_model(name)
        except self._mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = self.client.create_model_version(
            name, info.model_uri, run_id=run_id, tags={**tags, "nightcast": __version__}
        )
        return self._version(version)

    def find(self, workload: str, *, night_id: str) -> Version | None:
        """The version a night made, if it did."""
        found = [v for v in self.versions(workload) if v.night_id == night_id]
        return found[0] if found else None

    def versions(self, workload: str) -> list[Version]:
        """All versions, newest first."""
        name = registered_name(workload)
        found = [self._version(v) for v in self.client.search_model_versions(f"name = '{name}'")]
        return sorted(found, key=lambda v: -int(v.number))

    def numbered(self, workload: str, number: str) -> Version:
        """The version of a number.

        Raises
        ------
        RegistryError
            If there is none.
        """
        for version in self.versions(workload):
            if version.number == str(number):
                return version
        known = ", ".join(v.number for v in self.versions(workload)) or "none"
        raise RegistryError(
            f"{registered_name(workload)} has no version {number!r}",
            expected=f"one of: {known}",
            remedy=f"`nightcast models {workload}` lists versions with their as-of dates",
        )

    def alias(self, workload: str, alias: str) -> Version | None:
        """The version behind an alias."""
        try:
            return self._version(self.client.get_model_version_by_alias(registered_name(workload), alias))
        except self._mlflow.exceptions.MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def set_challenger(self, version: Version) -> None:
        """Point `challenger` at a version."""
        self.client.set_registered_model_alias(version.name, CHALLENGER, version.number)

    def record_gate(self, version: Version, decision: Decision | None) -> Version:
        """Tag a version with what the champion gate said of it, so that nobody promotes it unawares."""
        if decision is None:
            return version
        tags = {
            GATE: "passed" if decision.promote else "refused",
            GATE_FAILED: json.dumps([guard.name for guard in decision.guards if not guard.passed]),
            GATE_REASON: decision.reason[:_TAG_LENGTH],
        }
        for key, value in tags.items():
            self.client.set_model_version_tag(version.name, version.number, key, value)
        return replace(version, tags={**version.tags, **tags})

    def promote(self, workload: str, number: str | None = None, *, force: str | None = None) -> Version:
        """Make a version (default: the challenger) the champion; the old champion is remembered for rollback.

        Parameters
        ----------
        force
            Why to promote a version that its gate refused; kept as a tag on the version.

        Raises
        ------
        RegistryError
            If there is no such version, or its gate did not pass it and no reason is given.
        """
        if force is not None and not force.strip():
            raise RegistryError(
                f"{registered_name(workload)} is to be promoted against its gate for the reason {force!r}",
                expected="a reason in words",
                remedy="say why: `--force 'the field test of May agrees'`",
            )
        target = self.alias(workload, CHALLENGER) if number is None else self.numbered(workload, number)
        if target is None:
            raise RegistryError(
                f"{registered_name(workload)} has no challenger",
                expected="a registered challenger, or --version",
                remedy=f"`nightcast run {workload}` registers one; `nightcast models {workload}` lists versions",
            )
        refused = target.tags.get(GATE) != "passed"
        if refused and force is None:
            raise _refused(target, workload)
        if refused:
            reason = str(force).strip()[:_TAG_LENGTH]
            self.client.set_model_version_tag(target.name, target.number, FORCED, reason)
            target = replace(target, tags={**target.tags, FORCED: reason})
        champion = self.alias(workload, CHAMPION)
        if champion is not None and champion.number != target.number:
            self._remember([*self._past(workload), champion.number], workload)
        self.client.set_registered_model_alias(target.name, CHAMPION, target.number)
        return target

    def rollback(self, workload: str) -> Version:
        """Make the previous champion the champion again.

        Raises
        ------
        RegistryError
            If there was none.
        """
        past = self._past(workload)
        if not past:
            raise RegistryError(
                f"{registered_name(workload)} has no earlier champion",
                expected="at least two promotions",
                remedy=f"promote a version by number: `nightcast promote {workload} --version N`",
            )
        target = self.numbered(workload, past[-1])
        self.client.set_registered_model_alias(target.name, CHAMPION, target.number)
        self._remember(past[:-1], workload)
        return target

    def bundle(self, version: Version) -> Path:
        """The local folder of a version's bundle."""
        root = Path(self._mlflow.artifacts.download_artifacts(version.uri))
        found = sorted(root.rglob("bundle.json"))
        if not found:
            raise RegistryError(
                f"version {version.number} of {version.name} holds no bundle",
                expected="artifacts/bundle/bundle.json, as `nightcast run` logs it",
                remedy="roll back to another version (`nightcast rollback`) or retrain",
            )
        return found[0].parent

    # inside

    def _past(self, workload: str) -> list[str]:
        name = registered_name(workload)
        found = self.client.search_registered_models(f"name = '{name}'")
        if not found:
            return []
        model = found[0]
        return list(json.loads(model.tags.get(PREVIOUS, "[]")))

    def _remember(self, numbers: list[str], workload: str) -> None:
        self.client.set_registered_model_tag(registered_name(workload), PREVIOUS, json.dumps(numbers[-50:]))

    @staticmethod
    def _version(raw: Any) -> Version:
        tags = dict(raw.tags)
        return Version(
            name=raw.name,
            number=str(raw.version),
            run_id=raw.run_id or "",
            night_id=tags.get("night_id", ""),
            recipe_hash=tags.get("recipe", ""),
            as_of=tags.get("as_of", ""),
            tags=tags,
        )

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """MLflow prints hints to stderr while it logs a model; they are not ours to show."""
        import logging
        import warnings

        previous = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.disable(previous)


def _refused(version: Version, workload: str) -> RegistryError:
    what = f"version {version.number} of {version.name} (as of {version.as_of[:10]})"
    if GATE in version.tags:
        failed, reason = ", ".join(version.gate_failed), version.tags.get(GATE_REASON, "")
        what += f" was refused by its gate: {failed}: {reason}" if failed else f" was refused by its gate: {reason}"
    else:
        what += " was never judged by the champion gate"
    return RegistryError(
        what,
        expected="a version that passed its gate",
        remedy=f"`nightcast models {workload}` shows what each gate said; "
        f"`nightcast promote {workload} --version {version.number} --force REASON` promotes it all the same",
    )


def _mlflow_type(dtype: pl.DataType) -> str:
    if dtype == pl.Int32:
        return "integer"
    if dtype.is_integer():
        return "long"
    if dtype.is_numeric():
        return "double"
    if dtype.is_temporal():
        return "datetime"
    if dtype == pl.Boolean:
        return "boolean"
    return "string"
