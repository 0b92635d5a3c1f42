"""In: a batch: embeddings, ragged positives, masks, weights.

Out: one loss per query and its gradients.
Touches: memory only; several processes communicate through collectives of torch.distributed.
"""
