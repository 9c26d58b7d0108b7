"""One module for each part of the chain: from the store's folders to a stage's typed call, and back to metrics."""
