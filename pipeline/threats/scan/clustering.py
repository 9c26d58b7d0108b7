"""Activation clustering: do the training images of one class fall into two kinds? (Chen et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.conv import _ConvNd

from pipeline.data import Split
from pipeline.prune.network import inference
from pipeline.threats.scan.findings import Finding
from pipeline.threats.scan.outlier import lowest_outlier

_COMPONENTS = 10
_BATCH = 256
_LEAST_IMAGES = 20


def cluster(
    name: str, network: nn.Module, train: Split, class_names: tuple[str, ...], rate: float, seed: int
) -> Finding:
    """Activations before the last layer, by class: principal components, two clusters, their silhouette (section 4).

    The paper reads off a threshold; here the class of the highest silhouette is tested against the others. Meant for
    the network that was trained on these images. Classes of fewer than twenty images are left out.
    """
    features = _features(network, train)
    kept = [index for index in range(len(class_names)) if int((train.labels == index).sum()) >= _LEAST_IMAGES]
    found = [_two_clusters(features[train.labels == index], seed) for index in kept]
    silhouettes = np.array([silhouette for silhouette, _ in found])
    outlier = lowest_outlier(-silhouettes, rate)
    worst = kept[outlier.index] if outlier else None
    return Finding(
        method="clustering",
        network=name,
        statistic="how far one class' images fall clearer in two, in deviations of the others,",
        value=outlier.score if outlier else 0.0,
        threshold=outlier.threshold if outlier else None,
        false_alarm_rate=rate if outlier else None,
        assumes="silhouettes of clean classes are normal and alike" if outlier else "too few classes have images",
        class_name=class_names[worst] if worst is not None else None,
        sign=outlier.found if outlier else False,
        detail={
            "silhouettes": {class_names[index]: found[at][0] for at, index in enumerate(kept)},
            "smaller_cluster_share": {class_names[index]: found[at][1] for at, index in enumerate(kept)},
        },
    )


def _features(network: nn.Module, train: Split) -> NDArray[np.float64]:
    """What goes into the layer that runs last, (N, features)."""
    rows: list[torch.Tensor] = []
    with inference(network), _watching(network) as seen:
        for at in range(0, len(train), _BATCH):
            network(torch.from_numpy(train.batch(slice(at, at + _BATCH))))
            rows.append(seen[-1].flatten(1))
            seen.clear()
    return np.asarray(torch.cat(rows).double().numpy())


@contextmanager
def _watching(network: nn.Module) -> Iterator[list[torch.Tensor]]:
    seen: list[torch.Tensor] = []

    def note(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0].detach())

    layers = [module for module in network.modules() if isinstance(module, (_ConvNd, nn.Linear))]
    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _two_clusters(features: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """Silhouette of two clusters of a class, and the share of the smaller."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import silhouette_score

    if np.ptp(features, axis=0).max() == 0:
        return 0.0, 0.0
    components = min(_COMPONENTS, *features.shape)
    reduced = PCA(components, random_state=seed).fit_transform(features)
    labels = KMeans(2, n_init=4, random_state=seed).fit_predict(reduced)
    if len(np.unique(labels)) < 2:
        return 0.0, 0.0
    return float(silhouette_score(reduced, labels)), float(np.bincount(labels).min() / len(labels))
