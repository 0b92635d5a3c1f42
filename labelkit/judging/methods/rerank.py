"""Score each pair with a reranker. There is no grade until `labelkit calibrate` draws the thresholds between grades.

A cross-encoder reads query and passage together and returns a logit. A language model that was trained to rerank
answers yes or no; its score is the log-odds of yes, the logit that such models are trained with (arXiv 2003.06713).
"""

from labelkit.engines import Reply
from labelkit.judging.methods.binary import log_odds
from labelkit.judging.methods.steps import Ask, Verdict, ask_for_label
from labelkit.judging.prompts import Prompt
from labelkit.judging.reply_parser import Failure, label_probabilities, read_label


def ask(prompt: Prompt) -> Ask:
    """Return the step that asks for the score of one pair."""
    return ask_for_label(prompt) if prompt.labels else Ask("judge", (0,), max_tokens=0)


def verdict(reply: Reply, prompt: Prompt) -> Verdict:
    """Return the verdict of the score of one pair, without a grade. The score is preserved as the model gives it."""
    if not prompt.labels:
        if reply.score is None:
            return Verdict(failure=f"no answer: {reply.error}" if reply.error else "no score in the reply")
        return Verdict(score=reply.score)
    if isinstance(label := read_label(reply, prompt.label_texts), Failure):
        return Verdict(failure=label.reason)
    if reply.label_logprobs is None:
        return Verdict(failure="no score: the reply has no log-probabilities that distinguish the labels")
    _, mass = label_probabilities(reply.label_logprobs, prompt.label_texts)
    return Verdict(score=log_odds(reply.label_logprobs, prompt), label_mass=None if reply.masked else mass)
