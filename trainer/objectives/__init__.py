"""In: a batch: embeddings, ragged positives, masks, weights.

Out: one loss for each query and its gradients.
Touches: nothing but memory; between processes, collectives of torch.distributed.
"""
