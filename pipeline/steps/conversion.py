"""How the networks of a run become the engine that ships."""

from __future__ import annotations

from devices.engines.select import ort_options
from pipeline.latency_source.measured import ConversionConfig
from pipeline.work import Work


def conversion_config(work: Work) -> ConversionConfig:
    """Opset, precision and engine options of the run."""
    int8 = work.recipe.quantize.precision == "int8"
    return ConversionConfig(
        opset=work.opset,
        activations=work.profile.engine.int8_activations if int8 else None,
        weight_bits=work.weight_bits,
        options=ort_options(work.profile) if work.profile.engine.runtime == "onnxruntime" else None,
        threads=work.recipe.threads,
        ends=work.recipe.quantize.keep,
        operators=work.recipe.quantize.operators,
    )
