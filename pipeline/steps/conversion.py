"""How the networks of a run become the engine that ships."""

from __future__ import annotations

from devices.engines.select import ort_options
from pipeline.latency_source.measured import ConversionConfig
from pipeline.opset import choose_opset
from pipeline.work import Work


def conversion_config(work: Work) -> ConversionConfig:
    """Opset, precision and engine options of the run."""
    int8 = work.recipe.quantize.precision == "int8"
    return ConversionConfig(
        opset=choose_opset(work.recipe.export, work.profile),
        activations=work.profile.engine.int8_activations if int8 else None,
        weight_bits=work.weight_bits,
        options=ort_options(work.profile),
        threads=work.recipe.threads,
    )
