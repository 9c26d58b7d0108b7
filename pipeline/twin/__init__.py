"""The fake-quantized twin: a quantized graph as a torch network that has gradients."""
