"""From a network to portable files: ONNX, simplified, quantized, bundled."""
