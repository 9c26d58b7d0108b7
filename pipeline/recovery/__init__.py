"""Training from scratch, and recovery after pruning: statistics measured anew, fine-tuning, distillation."""
