"""Mines hard negatives: passages that a retriever ranks high for a query and that are probably irrelevant to it."""
