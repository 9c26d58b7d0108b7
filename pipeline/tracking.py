"""What a run came to, logged with MLflow where the user names a place; nothing is sent anywhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from devices.errors import StorageError
from devices.extras import install

_INSTALL = install("tracking")
_ARTIFACTS = ("report.html", "report.json", "run.json")
_MAX_PARAM = 500


def require_mlflow() -> None:
    """Raise `StorageError` where MLflow is not installed."""
    if find_spec("mlflow") is None:
        raise StorageError("--mlflow", "MLflow is not installed", _INSTALL)


def log_run(uri: str, run: Path, report: Mapping[str, Any]) -> str:
    """Log parameters, metrics and artifacts of a run folder; returns MLflow's identifier of the run.

    `uri` is MLflow's tracking URI: `sqlite:///mlflow.db`, `file:mlruns`, or the address of a server. The experiment has
    the recipe's name. Raises `StorageError` when it cannot be logged.
    """
    # MLflow reports how it is used to its makers unless told not to, and refuses stores of files unless asked to.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    if uri.startswith("file:") or "://" not in uri:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    try:
        client = MlflowClient(tracking_uri=uri)
        name = str(report["name"])
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name)
        identifier: str = client.create_run(experiment, run_name=run.name).info.run_id
        metrics = [Metric(key, value, 0, 0) for key, value in run_metrics(report).items()]
        params = [Param(key, value[:_MAX_PARAM]) for key, value in run_params(report).items()]
        client.log_batch(identifier, metrics=metrics, params=params)
        for artifact in _ARTIFACTS:
            client.log_artifact(identifier, str(run / artifact))
        for folder in ("deploy", "evidence"):
            if (run / folder).is_dir():
                client.log_artifacts(identifier, str(run / folder), folder)
        client.set_terminated(identifier)
    # Its stores raise errors of many kinds; all mean that the run, which is done, was not logged.
    except Exception as cause:
        text = " ".join(str(cause).split()) or type(cause).__name__
        raise StorageError(f"--mlflow {uri}", f"the run was not logged ({text:.200})", "Check the URI") from cause
    return identifier


def run_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """Figures of a report by name: of each engine, with `shipped_` before those of the one that ships."""
    found: dict[str, float] = {"passed": float(report["verdict"]["passed"])}
    for engine in report["engines"]:
        name = engine["name"]
        figures = {"size_bytes": engine["size_bytes"], "macs": engine["macs"], "parameters": engine["parameters"]}
        for key in ("clean", "robust"):
            if engine.get(key):
                figures[f"{key}_accuracy"] = engine[key]["value"]
        if engine["latency"]:
            figures |= {key: engine["latency"][key]["value"] for key in ("p50_ms", "p90_ms", "p99_ms")}
        for key, value in figures.items():
            found[f"{name}.{key}"] = float(value)
            if name == report["shipped"]:
                found[f"shipped_{key}"] = float(value)
    for ratio in report["speedups"]:
        if ratio["engine"] == report["shipped"]:
            found[f"speedup_over.{ratio['than']}"] = float(ratio["value"])
    return found


def run_params(report: Mapping[str, Any]) -> dict[str, str]:
    """The recipe, key by key (`prune.target_macs`), the device and what ships."""
    found = {"device": str(report["device"]["name"]), "shipped": str(report["shipped"])}
    for key, value in report["recipe"].items():
        rows = value.items() if isinstance(value, dict) else [("", value)]
        found |= {f"{key}.{name}".rstrip("."): str(row) for name, row in rows if row is not None}
    return found
